/* Load generator of the benchmarks: round trips over TCP, as fast as one core drives them.
 *
 *   rr server ADDRESS PORT                                   echo; on PORT + 1, echo once and close
 *   rr rr     ADDRESS PORT CONNECTIONS SIZE SECONDS [SLICE]  round trips on kept connections
 *   rr crr    ADDRESS PORT CONNECTIONS SIZE SECONDS [SLICE]  connect, one round trip, close; CONNECTIONS at a time
 *   rr crf    ADDRESS PORT CONNECTIONS SIZE SECONDS [SLICE]  the same to PORT + 1: the server closes first
 *   rr idle   ADDRESS PORT CONNECTIONS SECONDS               open connections, one round trip each, then keep them idle
 *
 * Lines of JSON on standard output. At the end of rr, crr and crf one line: {"mode":..,"connections":..,"size":..,
 * "seconds":..,"operations":..,"failed":..,"per_second":..,"p50_us":..,"p99_us":..,"max_us":..,"slices":[..]}, where
 * each slice of SLICE seconds has per_second, p50_us and p99_us. idle prints {"mode":"idle","connections":..,
 * "seconds":..} when all connections stand, then keeps them for SECONDS. Times are of the monotonic clock.
 *
 * Connected sockets are non-blocking, as in any program that is driven by events.
 *
 * crr closes with a reset: the client of a connection that it closes first with a FIN keeps the port in TIME_WAIT for
 * a minute, and at these rates has none left after two seconds, mesh or no mesh. With crf the FINs are exchanged, and
 * TIME_WAIT is the server's. A connection of crr and crf that fails is counted and replaced; past MAX_FAILED, and with
 * any failure of rr, the run is over.
 */
#include "common.h"

enum { MAX_SIZE = 1 << 20, MAX_FAILED = 1000, MAX_SLICES = 1000, OPENING = 64 };

enum mode { RR, CRR, CRF, IDLE, MODES };
static const char *const mode_names[MODES] = {"rr", "crr", "crf", "idle"};

struct connection {
    double started;
    size_t received;
};

static struct connection connections[MAX_DESCRIPTORS];
static char echo_once[MAX_DESCRIPTORS];
static char buffer[MAX_SIZE], answer[MAX_SIZE];

static enum mode mode;
static int count, failed;
static size_t size, slice_starts[MAX_SLICES + 1], slices;
static double slice_seconds;

/* -- server -------------------------------------------------------------------------------------------------------- */

/* Whether the connection goes on. */
static int echo(int descriptor) {
    ssize_t got = read(descriptor, buffer, sizeof buffer);
    if (got < 0 && errno == EAGAIN) return 1;
    return got > 0 && write_all(descriptor, buffer, (size_t)got) && !echo_once[descriptor];
}

static _Noreturn void serve(const char *address, int port) {
    int kept = open_listener(address, port), closing = open_listener(address, port + 1);
    struct epoll_event ready[BATCH];
    for (;;) {
        int events = epoll_wait(epoll, ready, BATCH, -1);
        for (int i = 0; i < events; i++) {
            int descriptor = ready[i].data.fd;
            if (descriptor == kept || descriptor == closing) {
                int accepted = accept4(descriptor, NULL, NULL, SOCK_NONBLOCK);
                if (accepted < 0) continue;
                watch(no_delay(accepted));
                echo_once[accepted] = descriptor == closing;
            } else if (!echo(descriptor)) {
                close(descriptor);
            }
        }
    }
}

/* -- client -------------------------------------------------------------------------------------------------------- */

static void note_failure(const char *what) {
    if (mode == RR || mode == IDLE || ++failed > MAX_FAILED) fail(what);
}

static void begin(void) {
    for (;;) {
        double started = now();
        int descriptor = socket(target.ss_family, SOCK_STREAM, 0);
        if (descriptor < 0) fail("socket");
        if (connect(descriptor, (struct sockaddr *)&target, target_size) < 0) {
            note_failure("connect");
        } else if (fcntl(descriptor, F_SETFL, O_RDWR | O_NONBLOCK) < 0) {
            fail("fcntl");
        } else if (watch(no_delay(descriptor)), !write_all(descriptor, buffer, size)) {
            note_failure("write");
        } else {
            connections[descriptor] = (struct connection){.started = started};
            return;
        }
        close(descriptor);
    }
}

static void begin_again(int descriptor) {
    if (mode == CRR) {
        struct linger reset = {.l_onoff = 1};
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    }
    close(descriptor);
    begin();
}

static void completed(int descriptor, struct connection *connection) {
    double finished = now();
    if (taken < MAX_SAMPLES) samples[taken] = (float)(finished - connection->started);
    taken++;
    if (mode == CRR) {
        begin_again(descriptor);
    } else if (mode == RR) {
        connection->received = 0;
        connection->started = finished;
        if (!write_all(descriptor, buffer, size)) fail("write");
    }
}

static void take(int descriptor) {
    struct connection *connection = &connections[descriptor];
    ssize_t got = read(descriptor, answer, sizeof answer);
    if (got > 0) {
        size_t before = connection->received;
        connection->received += (size_t)got;
        if (before < size && connection->received >= size) completed(descriptor, connection);
    } else if (mode == CRF && !got && connection->received >= size) {
        begin_again(descriptor);
    } else if (!got || errno != EAGAIN) {
        errno = got ? errno : ECONNRESET;
        note_failure("a connection ended");
        begin_again(descriptor);
    }
}

static void take_ready(void) {
    struct epoll_event ready[BATCH];
    int events = epoll_wait(epoll, ready, BATCH, 100);
    for (int i = 0; i < events; i++) take(ready[i].data.fd);
}

static void report(double elapsed) {
    check_samples();
    printf("{\"mode\":\"%s\",\"connections\":%d,\"size\":%zu,\"seconds\":%.3f,\"operations\":%zu,\"failed\":%d,"
           "\"slices\":[", mode_names[mode], count, size, elapsed, taken, failed);
    /* Slices first: sorting the whole mixes them. What is left after the last whole slice belongs to none. */
    for (size_t i = 0; i < slices; i++) {
        printf("%s{", i ? "," : "");
        print_figures(samples + slice_starts[i], slice_starts[i + 1] - slice_starts[i], slice_seconds);
        printf("}");
    }
    printf("],");
    print_figures(samples, taken, elapsed);
    printf("}\n");
}

static void run(double seconds) {
    for (int i = 0; i < count; i++) begin();
    double start = now(), end = start + seconds;
    for (double at = start; at < end; at = now()) {
        while (slice_seconds > 0 && slices < MAX_SLICES && at >= start + slice_seconds * (double)(slices + 1))
            slice_starts[++slices] = taken;
        take_ready();
    }
    double elapsed = now() - start;
    if (slice_seconds > 0 && slices < MAX_SLICES && elapsed >= slice_seconds * (double)(slices + 1))
        slice_starts[++slices] = taken;
    report(elapsed);
}

static void stay_idle(double seconds) {
    double start = now();
    /* A few at a time, so that no accept queue on the way overflows. */
    for (int opened = 0; taken < (size_t)count;) {
        for (; opened < count && (size_t)opened < taken + OPENING; opened++) begin();
        take_ready();
    }
    printf("{\"mode\":\"idle\",\"connections\":%d,\"seconds\":%.3f}\n", count, now() - start);
    fflush(stdout);
    for (double end = now() + seconds; now() < end;) take_ready();
}

int main(int argc, char **argv) {
    prepare("rr");
    if (argc == 4 && !strcmp(argv[1], "server")) serve(argv[2], atoi(argv[3]));
    for (mode = RR; mode < MODES && (argc < 2 || strcmp(argv[1], mode_names[mode])); mode++) {}
    if (mode == MODES || argc < (mode == IDLE ? 6 : 7)) {
        fprintf(stderr, "usage: rr server ADDRESS PORT | rr rr|crr|crf ADDRESS PORT CONNECTIONS SIZE SECONDS [SLICE] | "
                        "rr idle ADDRESS PORT CONNECTIONS SECONDS\n");
        return 2;
    }
    parse_target(argv[2], atoi(argv[3]) + (mode == CRF));
    count = atoi(argv[4]);
    size = mode == IDLE ? 1 : (size_t)atol(argv[5]);
    slice_seconds = argc > 7 ? atof(argv[7]) : 0;
    if (count < 1 || size < 1 || size > MAX_SIZE) {
        fprintf(stderr, "rr: at least one connection, and 1 to %d bytes\n", MAX_SIZE);
        return 2;
    }
    memset(buffer, 'x', size);
    make_room_for_samples();
    if (mode == IDLE)
        stay_idle(atof(argv[5]));
    else
        run(atof(argv[6]));
    return 0;
}

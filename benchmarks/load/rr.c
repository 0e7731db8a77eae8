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
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 256, MAX_DESCRIPTORS = 65536, MAX_SIZE = 1 << 20, MAX_FAILED = 1000, MAX_SLICES = 1000, OPENING = 64 };
static const size_t MAX_SAMPLES = 40 * 1000 * 1000;

enum mode { RR, CRR, CRF, IDLE, MODES };
static const char *const mode_names[MODES] = {"rr", "crr", "crf", "idle"};

struct connection {
    double started;
    size_t received;
};

static struct sockaddr_storage target;
static socklen_t target_size;
static struct connection connections[MAX_DESCRIPTORS];
static char echo_once[MAX_DESCRIPTORS];
static char buffer[MAX_SIZE], answer[MAX_SIZE];

static enum mode mode;
static int epoll, count, failed;
static size_t size, taken, slice_starts[MAX_SLICES + 1], slices;
static double slice_seconds;
static float *samples;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static _Noreturn void fail(const char *what) {
    fprintf(stderr, "rr: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void parse_target(const char *address, int port) {
    struct sockaddr_in *v4 = (struct sockaddr_in *)&target;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&target;
    if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((unsigned short)port);
        target_size = sizeof *v4;
    } else if (inet_pton(AF_INET6, address, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((unsigned short)port);
        target_size = sizeof *v6;
    } else {
        fprintf(stderr, "rr: %s is not an address\n", address);
        exit(2);
    }
}

static int no_delay(int descriptor) {
    int on = 1;
    setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return descriptor;
}

static void watch(int descriptor) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = descriptor};
    if (descriptor >= MAX_DESCRIPTORS || epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event) < 0) fail("epoll_ctl");
}

/* Writes all of it, waiting for room in between. */
static int write_all(int descriptor, const char *data, size_t length) {
    struct pollfd room = {.fd = descriptor, .events = POLLOUT};
    while (length) {
        ssize_t written = write(descriptor, data, length);
        if (written < 0 && errno == EAGAIN && poll(&room, 1, -1) > 0) continue;
        if (written <= 0) return 0;
        data += written;
        length -= (size_t)written;
    }
    return 1;
}

/* -- server -------------------------------------------------------------------------------------------------------- */

static int open_listener(const char *address, int port) {
    parse_target(address, port);
    int on = 1, listener = socket(target.ss_family, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&target, target_size) < 0) fail("bind");
    if (listen(listener, 4096) < 0) fail("listen");
    watch(listener);
    return listener;
}

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

static int ascending(const void *left, const void *right) {
    float difference = *(const float *)left - *(const float *)right;
    return (difference > 0) - (difference < 0);
}

/* Sorts; print the members that a slice and the whole have in common. */
static void print_figures(float *from, size_t number, double seconds) {
    printf("\"per_second\":%.1f", (double)number / seconds);
    if (!number) return;
    qsort(from, number, sizeof *from, ascending);
    printf(",\"p50_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f", from[number / 2] * 1e6,
           from[(size_t)((double)number * 0.99)] * 1e6, from[number - 1] * 1e6);
}

static void report(double elapsed) {
    if (!taken) {
        fprintf(stderr, "rr: nothing came back\n");
        exit(1);
    }
    if (taken > MAX_SAMPLES) {
        fprintf(stderr, "rr: more than %zu round trips; measure for a shorter time\n", MAX_SAMPLES);
        exit(1);
    }
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
    signal(SIGPIPE, SIG_IGN);
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    epoll = epoll_create1(0);
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
    samples = malloc(MAX_SAMPLES * sizeof *samples);
    if (!samples) fail("malloc");
    if (mode == IDLE)
        stay_idle(atof(argv[5]));
    else
        run(atof(argv[6]));
    return 0;
}

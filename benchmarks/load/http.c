/* Load generator and endpoint of the layer-7 benchmarks: requests over HTTP/1.1 and gRPC calls over HTTP/2.
 *
 *   http server ADDRESS PORT                                answers both versions, on PORT and PORT + 1
 *   http get    ADDRESS PORT CONNECTIONS SECONDS PREFIX     GET PREFIX/<number> on kept connections, one at a time each
 *   http grpc   ADDRESS PORT CONNECTIONS SECONDS STREAMS    unary calls, STREAMS at a time on each connection
 *
 * The answer to a path that begins with /large has LARGE bytes, any other SMALL. Paths differ from request to request
 * (NUMBERS of them), every fourth request has the header x-canary: yes. A call's request and answer have a message of
 * SMALL bytes; its header fields are indexed after the first, as gRPC's libraries do.
 *
 * At the end one line of JSON on standard output: {"operations":..,"failed":0,"per_second":..,"p50_us":..,"p99_us":..,
 * "max_us":..,"slices":[]}. Any answer but the expected one ends the run with an error. The reader of HTTP is made for
 * proxies that frame by content-length, and the one of HTTP/2 looks at frames and not into header blocks: what a call
 * must have is a whole message and an end that is no reset. Windows are opened so far that a run cannot fill them.
 */
#include "common.h"

enum {
    SMALL = 100, LARGE = 100 * 1024, NUMBERS = 10000, BUFFER = 256 * 1024, HEADS = 1024, MOST_STREAMS = 64,
    PATIENCE = 10, DATA = 0, HEADERS = 1, RST_STREAM = 3, SETTINGS = 4, PING = 6, GOAWAY = 7, WINDOW_UPDATE = 8,
    END_STREAM = 1, ACK = 1, END_HEADERS = 4, FRAME = 9, WINDOW = 1 << 30
};
static const char PREFACE[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
enum { PREFACE_SIZE = sizeof PREFACE - 1 };

struct stream {
    unsigned id;
    double started;
    size_t received;
};

struct connection {
    int http2, begun;                   /* begun: its first header block was sent, so fields are in the peer's table */
    size_t filled;                      /* of input */
    char *input;
    long long window;                   /* what the peer takes of us */
    size_t unreported;                  /* DATA that the peer has sent, and not been given room for again */
    size_t wanted, received, number;    /* HTTP/1.1: length of the answer (0: its head is not complete), and the request */
    double started;
    unsigned next_id;
    struct stream streams[MOST_STREAMS];
};

static struct connection *connections[MAX_DESCRIPTORS];
static char out[BUFFER], small_answer[HEADS], *large_answer;
static size_t out_size, small_size, large_size;
static const char *prefix = "/";
static int streams_each;

static _Noreturn void refuse(const char *what, const char *text, size_t size) {
    fprintf(stderr, "%s: %s: %.*s\n", program, what, (int)(size < 200 ? size : 200), text);
    exit(1);
}

static struct connection *new_connection(int descriptor) {
    struct connection *made = calloc(1, sizeof *made);
    if (!made || !(made->input = malloc(BUFFER))) fail("malloc");
    made->window = 65535;
    made->next_id = 1;
    connections[descriptor] = made;
    return made;
}

static void close_connection(int descriptor) {
    free(connections[descriptor]->input);
    free(connections[descriptor]);
    connections[descriptor] = NULL;
    close(descriptor);
}

/* -- HTTP/2 ------------------------------------------------------------------------------------------------------ */

static void put(const void *bytes, size_t size) {
    if (out_size + size > sizeof out) refuse("too much to send at once", "", 0);
    memcpy(out + out_size, bytes, size);
    out_size += size;
}

static void put_frame(int type, int flags, unsigned id, const void *payload, size_t size) {
    unsigned char header[FRAME] = {(unsigned char)(size >> 16), (unsigned char)(size >> 8), (unsigned char)size,
                                   (unsigned char)type, (unsigned char)flags, (unsigned char)(id >> 24),
                                   (unsigned char)(id >> 16), (unsigned char)(id >> 8), (unsigned char)id};
    put(header, FRAME);
    put(payload, size);
}

static void put_window(size_t more) {
    unsigned char size[4] = {(unsigned char)(more >> 24), (unsigned char)(more >> 16), (unsigned char)(more >> 8),
                             (unsigned char)more};
    put_frame(WINDOW_UPDATE, 0, 0, size, sizeof size);
}

static void put_settings(void) {
    static const unsigned char settings[] = {0, 3, 0, 0, 4, 0, 0, 4, 0x40, 0, 0, 0}; /* 1024 streams, windows of 2^30 */
    put_frame(SETTINGS, 0, 0, settings, sizeof settings);
    put_window(WINDOW - 65536);
}

struct field {
    unsigned char name; /* in the static table; 0: by name */
    const char *text, *value;
};

/* A header block: fields in full and to be indexed, or by their place in the table once they are there. */
static size_t block(unsigned char *to, const unsigned char *fixed, size_t size, const struct field *fields, int count,
                    int before, int indexed) {
    memcpy(to, fixed, size);
    for (int i = 0; i < count; i++) {
        if (indexed) {
            to[size++] = (unsigned char)(0x80 | (61 + before - i));
            continue;
        }
        to[size++] = 0x40 | fields[i].name;
        if (!fields[i].name) {
            to[size++] = (unsigned char)strlen(fields[i].text);
            memcpy(to + size, fields[i].text, to[size - 1]);
            size += to[size - 1];
        }
        to[size++] = (unsigned char)strlen(fields[i].value);
        memcpy(to + size, fields[i].value, to[size - 1]);
        size += to[size - 1];
    }
    return size;
}

static void put_message(struct connection *connection, unsigned id, int flags) {
    unsigned char message[5 + SMALL] = {0, 0, 0, 0, SMALL};
    memset(message + 5, 'm', SMALL);
    put_frame(DATA, flags, id, message, sizeof message);
    connection->window -= sizeof message;
    if (connection->window < 0) refuse("the peer gives no window back", "", 0);
}

static void put_call(struct connection *connection, struct stream *stream) {
    static const unsigned char fixed[] = {0x83, 0x86}; /* POST, http */
    static const struct field fields[] = {{4, "", "/shop.Items/Get"}, {1, "", "shop"}, {0, "te", "trailers"},
                                          {31, "", "application/grpc"}, {58, "", "load/1.0"}};
    unsigned char head[HEADS];
    stream->id = connection->next_id;
    connection->next_id += 2;
    stream->received = 0;
    stream->started = now();
    put_frame(HEADERS, END_HEADERS, stream->id, head,
              block(head, fixed, sizeof fixed, fields, 5, 5, connection->begun));
    connection->begun = 1;
    put_message(connection, stream->id, END_STREAM);
}

static void put_answer(struct connection *connection, unsigned id) {
    static const unsigned char fixed[] = {0x88}; /* 200 */
    static const struct field type[] = {{31, "", "application/grpc"}}, status[] = {{0, "grpc-status", "0"}};
    unsigned char head[HEADS];
    put_frame(HEADERS, END_HEADERS, id, head, block(head, fixed, 1, type, 1, 2, connection->begun));
    put_message(connection, id, 0);
    put_frame(HEADERS, END_HEADERS | END_STREAM, id, head, block(head, fixed, 0, status, 1, 1, connection->begun));
    connection->begun = 1;
}

static void call_ended(struct connection *connection, unsigned id) {
    for (int i = 0; i < streams_each; i++) {
        struct stream *stream = &connection->streams[i];
        if (stream->id != id) continue;
        if (stream->received != 5 + SMALL) refuse("a call was not answered with its message", "", 0);
        if (taken < MAX_SAMPLES) samples[taken] = (float)(now() - stream->started);
        taken++;
        put_call(connection, stream);
        return;
    }
}

static void take_data(struct connection *connection, unsigned id, size_t size) {
    connection->unreported += size;
    if (connection->unreported > WINDOW / 4) {
        put_window(connection->unreported);
        connection->unreported = 0;
    }
    for (int i = 0; i < streams_each; i++)
        if (connection->streams[i].id == id) connection->streams[i].received += size;
}

static void take_frame(struct connection *connection, int type, int flags, unsigned id, const char *payload,
                       size_t size) {
    const unsigned char *bytes = (const unsigned char *)payload;
    if (type == SETTINGS && !(flags & ACK)) put_frame(SETTINGS, ACK, 0, "", 0);
    if (type == PING && !(flags & ACK)) put_frame(PING, ACK, 0, payload, size);
    if (type == WINDOW_UPDATE && !id)
        connection->window += (long long)bytes[0] << 24 | bytes[1] << 16 | bytes[2] << 8 | bytes[3];
    if (type == DATA) take_data(connection, id, size);
    if (streams_each && type == RST_STREAM && size == 4 && bytes[3]) refuse("a call was reset", "", 0);
    if (streams_each && type == GOAWAY) refuse("the peer goes away", payload, size);
    if ((type == DATA || type == HEADERS) && flags & END_STREAM) {
        if (streams_each)
            call_ended(connection, id);
        else
            put_answer(connection, id);
    }
}

static size_t take_frames(struct connection *connection) {
    size_t position = 0;
    while (connection->filled - position >= FRAME) {
        const unsigned char *header = (unsigned char *)connection->input + position;
        size_t size = (size_t)header[0] << 16 | (size_t)header[1] << 8 | header[2];
        unsigned id = ((unsigned)header[5] & 127) << 24 | (unsigned)header[6] << 16 | (unsigned)header[7] << 8 | header[8];
        if (FRAME + size > BUFFER) refuse("a frame that is too large", "", 0);
        if (connection->filled - position < FRAME + size) break;
        take_frame(connection, header[3], header[4], id, connection->input + position + FRAME, size);
        position += FRAME + size;
    }
    return position;
}

/* -- server ------------------------------------------------------------------------------------------------------ */

static size_t make_answer(char *to, size_t body) {
    int head = sprintf(to, "HTTP/1.1 200 OK\r\nserver: load\r\ncontent-type: application/json\r\n"
                           "cache-control: no-store\r\ncontent-length: %zu\r\n\r\n", body);
    memset(to + head, 'b', body);
    return (size_t)head + body;
}

/* Answers every whole request; returns what was used of the input. */
static size_t take_requests(int descriptor, struct connection *connection) {
    size_t position = 0;
    for (char *end; (end = memmem(connection->input + position, connection->filled - position, "\r\n\r\n", 4));) {
        int large = !memcmp(connection->input + position, "GET /large", 10);
        if (!write_all(descriptor, large ? large_answer : small_answer, large ? large_size : small_size)) break;
        position = (size_t)(end + 4 - connection->input);
    }
    return position;
}

static void serve_input(int descriptor, struct connection *connection) {
    ssize_t got = read(descriptor, connection->input + connection->filled, BUFFER - connection->filled);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        close_connection(descriptor);
        return;
    }
    connection->filled += (size_t)got;
    size_t used = 0;
    if (!connection->http2 && connection->filled >= PREFACE_SIZE && !memcmp(connection->input, PREFACE, PREFACE_SIZE)) {
        connection->http2 = 1;
        connection->filled -= PREFACE_SIZE;
        memmove(connection->input, connection->input + PREFACE_SIZE, connection->filled);
        put_settings();
    }
    used = connection->http2 ? take_frames(connection) : take_requests(descriptor, connection);
    connection->filled -= used;
    memmove(connection->input, connection->input + used, connection->filled);
    if (out_size) write_all(descriptor, out, out_size);
    out_size = 0;
}

static _Noreturn void serve(const char *address, int port) {
    int first = open_listener(address, port), second = open_listener(address, port + 1);
    struct epoll_event ready[BATCH];
    for (;;) {
        int events = epoll_wait(epoll, ready, BATCH, -1);
        for (int i = 0; i < events; i++) {
            int descriptor = ready[i].data.fd;
            if (descriptor == first || descriptor == second) {
                int accepted = accept4(descriptor, NULL, NULL, SOCK_NONBLOCK);
                if (accepted < 0) continue;
                watch(no_delay(accepted));
                new_connection(accepted);
            } else {
                serve_input(descriptor, connections[descriptor]);
            }
        }
    }
}

/* -- client ------------------------------------------------------------------------------------------------------ */

static void ask(int descriptor, struct connection *connection) {
    static size_t number;
    char request[HEADS];
    number++;
    int size = snprintf(request, sizeof request,
                        "GET %s/%05zu?page=2 HTTP/1.1\r\nhost: shop\r\nuser-agent: load/1.0\r\naccept: */*\r\n%s\r\n",
                        prefix, number % NUMBERS, number % 4 ? "" : "x-canary: yes\r\n");
    connection->wanted = connection->received = 0;
    connection->started = now();
    if (!write_all(descriptor, request, (size_t)size)) fail("write");
}

/* The head of an answer, if it is complete: note how much there is to come. */
static void take_head(struct connection *connection) {
    char *end = memmem(connection->input, connection->filled, "\r\n\r\n", 4);
    if (!end) return;
    *end = 0;
    const char *length = strcasestr(connection->input, "\r\ncontent-length:");
    if (strncmp(connection->input, "HTTP/1.1 200 ", 13) || !length)
        refuse("another answer than expected", connection->input, connection->filled);
    connection->wanted = (size_t)(end + 4 - connection->input) + (size_t)atol(length + 17);
}

static void take_answer(int descriptor, struct connection *connection) {
    size_t room = connection->wanted ? 0 : connection->filled;
    ssize_t got = read(descriptor, connection->input + room, BUFFER - room);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) refuse("the proxy has closed a connection", "", 0);
    connection->received += (size_t)got;
    if (connection->http2) {
        connection->filled += (size_t)got;
        size_t used = take_frames(connection);
        connection->filled -= used;
        memmove(connection->input, connection->input + used, connection->filled);
        if (out_size && !write_all(descriptor, out, out_size)) fail("write");
        out_size = 0;
        return;
    }
    if (!connection->wanted) {
        connection->filled += (size_t)got;
        take_head(connection);
    }
    if (!connection->wanted || connection->received < connection->wanted) return;
    if (connection->received > connection->wanted) refuse("more than one answer", "", 0);
    if (taken < MAX_SAMPLES) samples[taken] = (float)(now() - connection->started);
    taken++;
    connection->filled = 0;
    ask(descriptor, connection);
}

static void begin(void) {
    int descriptor = socket(target.ss_family, SOCK_STREAM, 0);
    if (descriptor < 0) fail("socket");
    if (connect(descriptor, (struct sockaddr *)&target, target_size) < 0) fail("connect");
    if (fcntl(descriptor, F_SETFL, O_RDWR | O_NONBLOCK) < 0) fail("fcntl");
    watch(no_delay(descriptor));
    struct connection *connection = new_connection(descriptor);
    if (!streams_each) {
        ask(descriptor, connection);
        return;
    }
    connection->http2 = 1;
    put(PREFACE, PREFACE_SIZE);
    put_settings();
    for (int i = 0; i < streams_each; i++) put_call(connection, &connection->streams[i]);
    if (!write_all(descriptor, out, out_size)) fail("write");
    out_size = 0;
}

static void run(int count, double seconds) {
    for (int i = 0; i < count; i++) begin();
    double start = now(), end = start + seconds;
    struct epoll_event ready[BATCH];
    /* A busy machine may need longer for the first answer; a rate is of the time that it took. */
    for (double at = start; at < end || (!taken && at < end + PATIENCE); at = now()) {
        int events = epoll_wait(epoll, ready, BATCH, 100);
        for (int i = 0; i < events; i++) take_answer(ready[i].data.fd, connections[ready[i].data.fd]);
    }
    double elapsed = now() - start;
    check_samples();
    printf("{\"operations\":%zu,\"failed\":0,\"slices\":[],", taken);
    print_figures(samples, taken, elapsed);
    printf("}\n");
}

int main(int argc, char **argv) {
    prepare("http");
    large_answer = malloc(LARGE + HEADS);
    if (!large_answer) fail("malloc");
    small_size = make_answer(small_answer, SMALL);
    large_size = make_answer(large_answer, LARGE);
    if (argc == 4 && !strcmp(argv[1], "server")) serve(argv[2], atoi(argv[3]));
    int grpc = argc == 7 && !strcmp(argv[1], "grpc");
    if (!grpc && (argc != 7 || strcmp(argv[1], "get"))) {
        fprintf(stderr, "usage: http server ADDRESS PORT | http get ADDRESS PORT CONNECTIONS SECONDS PREFIX | "
                        "http grpc ADDRESS PORT CONNECTIONS SECONDS STREAMS\n");
        return 2;
    }
    parse_target(argv[2], atoi(argv[3]));
    int count = atoi(argv[4]);
    if (grpc)
        streams_each = atoi(argv[6]);
    else
        prefix = argv[6];
    if (count < 1 || strlen(prefix) > 256 || (grpc && (streams_each < 1 || streams_each > MOST_STREAMS))) {
        fprintf(stderr, "http: at least one connection, 1 to %d streams, a path of at most 256 bytes\n", MOST_STREAMS);
        return 2;
    }
    make_room_for_samples();
    run(count, atof(argv[5]));
    return 0;
}

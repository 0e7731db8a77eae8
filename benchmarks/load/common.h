/* What the load generators share: time, addresses, sockets that are driven by epoll, figures of what was measured. */
#ifndef LOAD_COMMON_H
#define LOAD_COMMON_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
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

enum { BATCH = 256, MAX_DESCRIPTORS = 65536 };
static const size_t MAX_SAMPLES = 40 * 1000 * 1000;

static const char *program;
static struct sockaddr_storage target;
static socklen_t target_size;
static int epoll;
static size_t taken;
static float *samples;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static _Noreturn void fail(const char *what) {
    fprintf(stderr, "%s: %s: %s\n", program, what, strerror(errno));
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
        fprintf(stderr, "%s: %s is not an address\n", program, address);
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

static int open_listener(const char *address, int port) {
    parse_target(address, port);
    int on = 1, listener = socket(target.ss_family, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&target, target_size) < 0) fail("bind");
    if (listen(listener, 4096) < 0) fail("listen");
    watch(listener);
    return listener;
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

/* Ends the program unless something was measured that its memory can hold. */
static void check_samples(void) {
    if (!taken) {
        fprintf(stderr, "%s: nothing came back\n", program);
        exit(1);
    }
    if (taken > MAX_SAMPLES) {
        fprintf(stderr, "%s: more than %zu round trips; measure for a shorter time\n", program, MAX_SAMPLES);
        exit(1);
    }
}

/* What every load generator does first. */
static void prepare(const char *name) {
    program = name;
    signal(SIGPIPE, SIG_IGN);
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    epoll = epoll_create1(0);
}

static void make_room_for_samples(void) {
    samples = malloc(MAX_SAMPLES * sizeof *samples);
    if (!samples) fail("malloc");
}

#endif

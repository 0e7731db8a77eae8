/*
 * ambimesh-cni: the CNI plugin that container runtimes execute on the host.
 *
 * It holds no logic: it relays its standard input and the CNI_* variables to the node agent's unix socket and prints
 * the agent's reply. The host may have no Python, so it is a static binary. It fails closed: without the agent ADD and
 * CHECK are errors ("try again later"), so that no pod starts outside the mesh. DEL succeeds; the agent reconciles.
 *
 * Request: {"environment": {"CNI_COMMAND": "ADD", ...}, "configuration": "<standard input>"}, then end of stream.
 * Reply:   "ambimesh-cni/1 <exit status> <length>\n" and that many bytes, which are the CNI result or error.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MAX_INPUT (1 << 20)
#define MAX_REPLY (2 << 20)
#define CONNECT_MS 2000
#define REPLY_MS 30000
#define DEFAULT_SOCKET "/run/ambimesh/cni.sock"
#define VERSIONS "[\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\"]"

enum { CODE_ENVIRONMENT = 4, CODE_DECODE = 6, CODE_CONFIGURATION = 7, CODE_LATER = 11 };

static char input[MAX_INPUT + 1], version[32] = "1.0.0", path[sizeof(((struct sockaddr_un *)0)->sun_path)];
static size_t input_length;

static long now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000L + t.tv_nsec / 1000000L;
}

/* Writes text as the inside of a JSON string. */
static void put_escaped(FILE *out, const char *text, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		unsigned char c = (unsigned char)text[i];
		if (c == '"' || c == '\\')
			fprintf(out, "\\%c", c);
		else if (c < 0x20 || c == 0x7f)
			fprintf(out, "\\u%04x", c);
		else
			putc(c, out);
	}
}

/* Prints a CNI error object and gives the exit status of a failure. */
static int fail(int code, const char *message, const char *detail)
{
	printf("{\"cniVersion\":\"%s\",\"code\":%d,\"msg\":\"", version, code);
	put_escaped(stdout, message, strlen(message));
	printf("\",\"details\":\"");
	put_escaped(stdout, detail, strlen(detail));
	printf("\"}\n");
	return fflush(stdout) ? 2 : 1;
}

/*
 * Copies the string value of a key of the outermost object into `out`. Values with escapes, of another type or too long
 * are left alone: -1. Absent: 0. Found: 1. One pass, no recursion: depth is only counted.
 */
static int find_string(const char *key, char *out, size_t room)
{
	size_t key_length = strlen(key);
	int depth = 0, is_key = 0;
	for (size_t i = 0; i < input_length; i++) {
		char c = input[i];
		if (c == '{' || c == '[')
			is_key = ++depth == 1;
		else if (c == '}' || c == ']')
			depth--;
		else if (c == ',')
			is_key = depth == 1;
		if (c != '"')
			continue;
		size_t start = ++i;
		while (i < input_length && input[i] != '"')
			i += input[i] == '\\' ? 2 : 1;
		if (i >= input_length)
			return 0;
		if (!is_key)
			continue;
		is_key = 0;
		if (i - start != key_length || memcmp(input + start, key, key_length))
			continue;
		for (i++; i < input_length && strchr(" \t\r\n:", input[i]) && input[i]; i++)
			;
		const char *value = input + i + 1, *end;
		if (i >= input_length || input[i] != '"' || !(end = memchr(value, '"', input_length - i - 1)))
			return -1;
		size_t length = (size_t)(end - value);
		if (length == 0 || length >= room || memchr(value, '\\', length) || memchr(value, 0, length))
			return -1;
		memcpy(out, value, length);
		out[length] = 0;
		return 1;
	}
	return 0;
}

/* Waits until the descriptor is ready or the deadline has passed. */
static int ready(int fd, short events, long deadline)
{
	for (;;) {
		long left = deadline - now_ms();
		struct pollfd wanted = {.fd = fd, .events = events};
		int count = left > 0 ? poll(&wanted, 1, (int)left) : 0;
		if (count < 0 && errno == EINTR)
			continue;
		if (count == 0)
			errno = ETIMEDOUT;
		return count > 0;
	}
}

static int dial(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	long deadline = now_ms() + CONNECT_MS;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	strcpy(address.sun_path, path);
	while (connect(fd, (struct sockaddr *)&address, sizeof(address))) {
		/* EAGAIN: the listener's queue is full; the kernel offers no event for that. */
		if ((errno != EAGAIN && errno != EINTR) || now_ms() >= deadline) {
			close(fd);
			return -1;
		}
		usleep(10000);
	}
	return fd;
}

static int send_all(int fd, const char *data, size_t length, long deadline)
{
	while (length > 0) {
		ssize_t sent = send(fd, data, length, MSG_NOSIGNAL);
		if (sent < 0 && errno == EAGAIN && ready(fd, POLLOUT, deadline))
			continue;
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return 0;
		data += sent;
		length -= (size_t)sent;
	}
	return shutdown(fd, SHUT_WR) == 0;
}

static ssize_t receive_all(int fd, char *data, size_t room, long deadline)
{
	size_t length = 0;
	for (;;) {
		ssize_t got = ready(fd, POLLIN, deadline) ? recv(fd, data + length, room - length, 0) : -1;
		if (got < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (got <= 0)
			return got < 0 ? -1 : (ssize_t)length;
		length += (size_t)got;
		if (length == room) {
			errno = EMSGSIZE;
			return -1;
		}
	}
}

static char *request(size_t *length)
{
	static const char *const names[] = {"CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS",
					    "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"};
	char *text = NULL;
	FILE *out = open_memstream(&text, length);
	if (!out)
		return NULL;
	fputs("{\"environment\":{", out);
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		const char *value = getenv(names[i]);
		fprintf(out, "%s\"%s\":\"", i ? "," : "", names[i]);
		put_escaped(out, value ? value : "", value ? strlen(value) : 0);
		putc('"', out);
	}
	fputs("},\"configuration\":\"", out);
	put_escaped(out, input, input_length);
	fputs("\"}", out);
	return fclose(out) ? NULL : text;
}

/* Prints the reply; -1 when it is not one. */
static int print_reply(char *reply, size_t length)
{
	int status = 0, header = 0;
	size_t announced = 0;
	reply[length] = 0;
	if (sscanf(reply, "ambimesh-cni/1 %1d %7zu%n", &status, &announced, &header) != 2 || status < 0 || status > 1 ||
	    header <= 0 || reply[header] != '\n' || length - (size_t)header - 1 != announced)
		return -1;
	fwrite(reply + header + 1, 1, announced, stdout);
	return fflush(stdout) ? 2 : status;
}

int main(void)
{
	static char reply[MAX_REPLY + 1];
	const char *command = getenv("CNI_COMMAND"), *why = "";
	char message[512];
	size_t length;
	ssize_t got;

	if (!command || !*command)
		return fail(CODE_ENVIRONMENT, "CNI_COMMAND is not set: this is a CNI plugin, run by a container runtime", "");
	while (input_length <= MAX_INPUT && (got = read(0, input + input_length, MAX_INPUT + 1 - input_length)) != 0) {
		if (got < 0 && errno != EINTR)
			return fail(CODE_DECODE, "the network configuration on standard input cannot be read", strerror(errno));
		input_length += got > 0 ? (size_t)got : 0;
	}
	if (input_length > MAX_INPUT)
		return fail(CODE_DECODE, "the network configuration on standard input is longer than 1 MiB", "");
	if (find_string("cniVersion", version, sizeof(version)) != 1 || version[strspn(version, "0123456789.")])
		strcpy(version, "1.0.0");
	if (!strcmp(command, "VERSION")) {
		printf("{\"cniVersion\":\"%s\",\"supportedVersions\":" VERSIONS "}\n", version);
		return fflush(stdout) ? 2 : 0;
	}
	if (strcmp(command, "ADD") && strcmp(command, "CHECK") && strcmp(command, "DEL"))
		return fail(CODE_ENVIRONMENT, "CNI_COMMAND is none of ADD, CHECK, DEL, VERSION", command);
	switch (find_string("agentSocket", path, sizeof(path))) {
	case 0:
		strcpy(path, DEFAULT_SOCKET);
		break;
	case -1:
		return fail(CODE_CONFIGURATION, "agentSocket must be a plain string of at most 107 bytes, without escapes", "");
	}
	char *text = request(&length);
	int fd = text ? dial() : -1;
	long deadline = now_ms() + REPLY_MS;
	if (fd >= 0) {
		/* Also when sending failed: the agent may have refused the request before it had read all of it. */
		int sent = send_all(fd, text, length, deadline), status;
		int send_error = errno;
		got = receive_all(fd, reply, MAX_REPLY, deadline);
		if (got > 0 && (status = print_reply(reply, (size_t)got)) >= 0)
			return status;
		why = !sent ? strerror(send_error) : got < 0 ? strerror(errno) : "its reply was cut or is not one";
	} else {
		why = strerror(errno);
	}
	if (!strcmp(command, "DEL"))
		return 0;
	snprintf(message, sizeof(message),
		 "the ambimesh node agent at %s does not answer, so the pod must not start outside the mesh: see that the "
		 "agent runs on this node; the attempt is repeated", path);
	return fail(CODE_LATER, message, why);
}

/* Buffers, non-blocking connections and the event loop. */
#define _GNU_SOURCE
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    RECEIVE_BYTES = 256 * 1024,
    BACKLOG = 4096,
    EVENTS_PER_POLL = 256,
    MAX_HEAD_BYTES = 64 * 1024,
};

static int epoll_fd = -1;

_Noreturn void fatal(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

size_t buffer_size(const struct buffer *buffer)
{
    return buffer->end - buffer->start;
}

char *buffer_at(const struct buffer *buffer)
{
    return buffer->data + buffer->start;
}

static void make_space(struct buffer *buffer, size_t size)
{
    if (buffer->capacity - buffer->end >= size)
        return;
    if (buffer->start > 0) {
        memmove(buffer->data, buffer_at(buffer), buffer_size(buffer));
        buffer->end -= buffer->start;
        buffer->start = 0;
    }
    if (buffer->capacity - buffer->end >= size)
        return;
    buffer->capacity = (buffer->end + size) * 2;
    buffer->data = realloc(buffer->data, buffer->capacity);
    if (buffer->data == NULL)
        fatal("no memory");
}

char *buffer_extend(struct buffer *buffer, size_t size)
{
    make_space(buffer, size);
    buffer->end += size;
    return buffer->data + buffer->end - size;
}

void buffer_append(struct buffer *buffer, const void *data, size_t size)
{
    if (size > 0)
        memcpy(buffer_extend(buffer, size), data, size);
}

void buffer_consume(struct buffer *buffer, size_t size)
{
    buffer->start += size;
    if (buffer->start == buffer->end)
        buffer->start = buffer->end = 0;
}

void buffer_free(struct buffer *buffer)
{
    free(buffer->data);
    *buffer = (struct buffer){0};
}

void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (memory == NULL)
        fatal("no memory");
    return memory;
}

size_t http_head(struct buffer *in)
{
    char *end = memmem(buffer_at(in), buffer_size(in), "\r\n\r\n", 4);
    if (end == NULL && buffer_size(in) > MAX_HEAD_BYTES)
        fatal("the relay sent an endless head");
    if (end == NULL)
        return 0;
    end[2] = 0;
    return (size_t)(end + 4 - buffer_at(in));
}

void conn_add(struct conn *conn, int fd, void (*ready)(struct conn *, uint32_t))
{
    conn->fd = fd;
    conn->ready = ready;
    conn->interest = EPOLLIN;
    if (epoll_fd < 0)
        epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = conn->interest, .data.ptr = conn};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
        fatal("epoll_ctl: %s", strerror(errno));
}

void conn_close(struct conn *conn)
{
    tls_free(conn);
    close(conn->fd);
    conn->fd = -1;
    buffer_free(&conn->in);
    buffer_free(&conn->out);
}

static void update_interest(struct conn *conn)
{
    bool wants_writable = conn->always_writable_events || buffer_size(&conn->out) > 0;
    if (conn->tls && tls_awaits_peer(conn))
        wants_writable = false;
    uint32_t interest = EPOLLIN | (wants_writable ? (uint32_t)EPOLLOUT : 0);
    if (interest == conn->interest)
        return;
    conn->interest = interest;
    struct epoll_event event = {.events = interest, .data.ptr = conn};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, conn->fd, &event);
}

bool conn_receive(struct conn *conn)
{
    ssize_t received;
    do {
        make_space(&conn->in, RECEIVE_BYTES);
        char *to = conn->in.data + conn->in.end;
        received = conn->tls ? tls_receive(conn, to, RECEIVE_BYTES)
                             : recv(conn->fd, to, RECEIVE_BYTES, 0);
        if (received > 0)
            conn->in.end += (size_t)received;
    } while (received > 0 && conn->tls); /* no event reports bytes that OpenSSL holds */
    if (conn->tls)
        update_interest(conn); /* the end of the handshake lets `out` be sent */
    return received > 0 || (received < 0 && errno == EAGAIN);
}

bool conn_send(struct conn *conn)
{
    ssize_t sent = 0;
    struct buffer *out = &conn->out;
    while (buffer_size(out) > 0) {
        sent = conn->tls ? tls_send(conn, buffer_at(out), buffer_size(out))
                         : send(conn->fd, buffer_at(out), buffer_size(out), MSG_NOSIGNAL);
        if (sent > 0)
            buffer_consume(out, (size_t)sent);
        if (sent <= 0 || !conn->tls) /* OpenSSL sends one record of 16 KiB per call */
            break;
    }
    bool alive = sent >= 0 || errno == EAGAIN || errno == ENOTCONN;
    update_interest(conn);
    return alive;
}

static int new_socket(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fatal("socket: %s", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    return fd;
}

static struct sockaddr_in loopback(uint16_t port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET,
        .sin_port = htons(port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
}

int listen_on_loopback(void)
{
    int fd = new_socket();
    struct sockaddr_in address = loopback(0);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, BACKLOG) < 0)
        fatal("listen: %s", strerror(errno));
    return fd;
}

int accept_from(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    return fd;
}

int connect_to_loopback(uint16_t port)
{
    int fd = new_socket();
    struct sockaddr_in address = loopback(port);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
        fatal("connect: %s", strerror(errno));
    return fd;
}

uint16_t port_of(int fd)
{
    struct sockaddr_in address = {0};
    socklen_t size = sizeof address;
    getsockname(fd, (struct sockaddr *)&address, &size);
    return ntohs(address.sin_port);
}

void poll_once(int timeout_ms)
{
    struct epoll_event events[EVENTS_PER_POLL];
    int count = epoll_wait(epoll_fd, events, EVENTS_PER_POLL, timeout_ms);
    for (int i = 0; i < count; i++) {
        struct conn *conn = events[i].data.ptr;
        conn->ready(conn, events[i].events);
    }
}

/* The parts of the load generator; `main.c` describes the whole. One thread, one event loop. */
#ifndef LOAD_H
#define LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

/* ---- io.c: buffers, non-blocking connections, the event loop ---- */

struct buffer {
    char *data;
    size_t start, end, capacity;
};

size_t buffer_size(const struct buffer *buffer);
char *buffer_at(const struct buffer *buffer);
/* Return space for `size` more bytes; it counts as appended. */
char *buffer_extend(struct buffer *buffer, size_t size);
void buffer_append(struct buffer *buffer, const void *data, size_t size);
void buffer_consume(struct buffer *buffer, size_t size);
void buffer_free(struct buffer *buffer);
void *allocate(size_t count, size_t size); /* zeroed */
/* Return the size of the HTTP head at the start of `in`, with its empty line, and let a NUL end its
   last field; return 0 while it is incomplete. */
size_t http_head(struct buffer *in);

/* One file descriptor of the event loop. Only its own `ready` may free it: the loop may hold further
   events of the same wake-up. */
struct conn {
    int fd;
    uint32_t interest;
    bool always_writable_events; /* also report EPOLLOUT while nothing waits to be sent */
    void (*ready)(struct conn *conn, uint32_t events);
    struct buffer in, out;
    void *tls; /* NULL: plain TCP */
};

_Noreturn void fatal(const char *format, ...) __attribute__((format(printf, 1, 2)));
uint64_t now_ns(void);
void conn_add(struct conn *conn, int fd, void (*ready)(struct conn *, uint32_t));
void conn_close(struct conn *conn);
/* Read into `in`; return false if the peer has closed. */
bool conn_receive(struct conn *conn);
/* Send what waits in `out`; the loop calls `ready` when more fits. Return false if the peer is gone. */
bool conn_send(struct conn *conn);
int listen_on_loopback(void); /* a listening socket on a free port */
int accept_from(int listener); /* -1: none waits */
int connect_to_loopback(uint16_t port);
uint16_t port_of(int fd);
/* Wait for events, at most `timeout_ms`, and call `ready` of each. */
void poll_once(int timeout_ms);

/* ---- tls.c: OpenSSL; without WITH_TLS, connections speak plain TCP ---- */

#ifdef WITH_TLS
void tls_init(const char *file); /* with the certificate and the key of the servers */
/* Let the connection speak TLS, if there is a certificate. */
void tls_start(struct conn *conn, bool is_client);
void tls_free(struct conn *conn);
/* As `recv` and `send`. */
ssize_t tls_receive(struct conn *conn, char *to, size_t size);
ssize_t tls_send(struct conn *conn, const char *data, size_t size);
bool tls_awaits_peer(const struct conn *conn); /* during the handshake: nothing can be sent */
#else
#define tls_init(file) fatal("--certificate %s: compiled without OpenSSL", file)
#define tls_start(conn, is_client) ((void)0)
#define tls_free(conn) ((void)0)
#define tls_receive(conn, to, size) ((ssize_t)-1)
#define tls_send(conn, data, size) ((ssize_t)-1)
#define tls_awaits_peer(conn) false
#endif

/* ---- text.c: requests and responses, and the check of every byte ---- */

enum { EVENT_BYTES = 250, TAIL_CAPACITY = 1024, PROMPT_TOKENS = 7 };

/* The response of one job, as far as it has arrived. */
struct checker {
    uint32_t job, next_event;
    size_t held; /* bytes of an incomplete event in `partial` */
    char partial[TAIL_CAPACITY];
};

void text_init(size_t prompt_bytes);
size_t request_size(void);
const char *request_text(uint32_t job); /* valid until the next call */
bool is_request(const char *body, size_t size); /* of a job, possibly altered */
/* Return whether `body` holds the unaltered prompt of a job, and which. */
bool read_request(const char *body, size_t size, uint32_t *job);
void write_event(char *to, uint32_t job, uint32_t event, uint64_t stamp_ns);
size_t write_tail(char *to, uint32_t events); /* finish reason, usage and [DONE] */
/* Check the next bytes of a response; call `event_arrived` for each complete event. Return false if
   a byte is wrong. */
bool check_response(struct checker *checker, const char *data, size_t size);
bool check_complete(const struct checker *checker);

/* ---- server.c: the inference server ---- */

enum pacing {
    PACED,     /* `rate` events per second and stream, with a random phase */
    FLAT_OUT,  /* as fast as the connection accepts them */
    PING_PONG, /* each event as soon as the one before it has arrived */
};

uint16_t server_listen(void); /* may be called several times */
/* Send the next event of the stream that is sent to `slot`, for PING_PONG. */
void server_continue(uint32_t slot);

/* ---- the sides that send jobs ---- */

uint16_t coordinator_listen(void);
bool coordinator_ready(void); /* whether the agent offers the model for all streams */
void coordinator_start_job(uint32_t slot);
void coordinator_flush(void);
void client_start_job(uint32_t slot);

/* What the coordinator and the agent say over their WebSocket. */
struct dialect {
    const char *subprotocol; /* NULL: none */
    void (*open)(void);
    void (*on_message)(const char *data, size_t size, uint64_t at_ns);
    void (*start_job)(uint32_t slot);
    void (*flush)(void);
};

extern const struct dialect version1, marketplace;
extern uint64_t offered_jobs; /* how many jobs at once the agent accepts for the model "bench" */

struct buffer *link_out(void); /* what is to be sent to the agent */
void link_send(void);

/* ---- websocket.c: the server's side of RFC 6455 ---- */

enum { FRAME_HEAD_MAX = 14, WS_TEXT = 1, WS_BINARY = 2, WS_CLOSE = 8, WS_PING = 9, WS_PONG = 10 };

struct ws_frame {
    bool final;
    int opcode;
    char *payload; /* unmasked in place */
    size_t size, total;
};

/* Write the answer to an upgrade request; return false if it is not a valid one. `subprotocol` may be
   NULL. */
bool ws_accept(const char *head, const char *subprotocol, struct buffer *out);
/* Parse the frame at the start of `in`; return false while it is incomplete. */
bool ws_parse(struct buffer *in, struct ws_frame *frame);
void ws_write_head(struct buffer *out, int opcode, size_t size);

/* ---- msgpack.c ---- */

struct reader {
    const uint8_t *at, *end;
    bool bad; /* malformed; every later read returns 0 */
};

uint32_t read_array(struct reader *reader);
uint64_t read_uint(struct reader *reader);
bool read_null(struct reader *reader); /* consumes it if it is next */
/* The bytes of a str or bin. */
const char *read_bytes(struct reader *reader, size_t *size);
void read_skip(struct reader *reader, uint32_t values);
void put_array(struct buffer *out, uint32_t count);
void put_uint(struct buffer *out, uint64_t value);
void put_true(struct buffer *out);
void put_text(struct buffer *out, const char *text);
void put_bin_head(struct buffer *out, size_t size);
void put_bin(struct buffer *out, const void *data, size_t size);

/* ---- main.c: the run and its figures ---- */

/* What runs now: first a short warm-up, then the measured load. */
struct phase {
    uint32_t number;
    uint32_t streams; /* concurrent jobs */
    uint32_t rounds;  /* jobs per stream, one after another */
    uint32_t events;  /* per job */
    enum pacing pacing;
    double rate;
};

/* One of the concurrent streams, with the job that it runs. Job numbers are
   `round * streams + slot`. */
struct slot {
    uint32_t round;
    bool running, wrong;
    uint64_t sent_ns, first_byte_ns;
    struct checker checker;
};

struct totals {
    uint64_t jobs, events, errors;
    uint64_t messages; /* of the agent */
    uint64_t usages;   /* jobs whose counts of tokens were reported, correctly */
};

extern struct phase phase;
extern struct totals totals;
extern struct slot *slots;
extern uint32_t max_streams; /* number of `slots` */
extern uint16_t target_port; /* of the relay that is an HTTP server; 0: the relay dials */
extern bool receipts;        /* ask for signed receipts */
extern bool loose;           /* events may be encoded anew: check only their content */

void slot_received(struct slot *slot, const char *data, size_t size, uint64_t at_ns);
/* The job of `slot` has ended; NULL: successfully. Starts the next one. */
void slot_ended(struct slot *slot, const char *error);
void event_arrived(uint32_t job, uint32_t event, uint64_t stamp_ns);

#endif

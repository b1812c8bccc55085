/* The load generator of `make bench`: plays the inference server and the other side of a relay, in one
   process, so that one clock measures what the relay adds.

   The other side is the coordinator of docs/protocol.md, which the relay dials, or, with --target,
   HTTP clients of a relay that listens there. The program prints its ports as one line of JSON, runs a
   short warm-up as soon as the relay works, prints {"ready": true}, waits for a line on standard input,
   runs the load, prints the figures as JSON, and exits at the end of standard input. It exits with 1 if
   the relay breaks the protocol. */
#define _GNU_SOURCE
#include "load.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum {
    TICK_MS = 100,
    START_TIMEOUT_S = 120, /* until the relay works: LiteLLM needs 15 s */
    RETRY_MS = 200,
    WARM_UP_ROUNDS = 4,
    WARM_UP_EVENTS = 2,
    BUCKETS_PER_OCTAVE = 64, /* the figures are exact to 1.6 % */
};

/* Counts of durations, in buckets of logarithmic width. */
struct histogram {
    uint64_t counts[64 * BUCKETS_PER_OCTAVE], total;
};

struct phase phase;
struct slot *slots;
uint32_t max_streams = 1;
uint16_t target_port;
bool receipts, loose;
struct totals totals;

static struct phase load = {.number = 2, .streams = 1, .rounds = 1, .events = 100, .rate = 50};
static uint32_t backends = 1, run_timeout_s = 120, running;
static size_t prompt_bytes = 100;
static bool input_ended, may_start;
static struct conn input;
static struct histogram latency, first_byte;
static uint64_t began_ns, ended_ns;
static char first_error[256];

static uint32_t bucket_of(uint64_t value)
{
    if (value < BUCKETS_PER_OCTAVE)
        return (uint32_t)value;
    int shift = 63 - __builtin_clzll(value) - 6;
    return (uint32_t)((shift + 1) * BUCKETS_PER_OCTAVE + (int)(value >> shift) - BUCKETS_PER_OCTAVE);
}

static void record(struct histogram *histogram, uint64_t value)
{
    histogram->counts[bucket_of(value)]++;
    histogram->total++;
}

/* Return the duration, in milliseconds, that `share` of the values do not exceed. */
static double quantile_ms(const struct histogram *histogram, double share)
{
    uint64_t wanted = (uint64_t)(share * (double)histogram->total), seen = 0;
    for (uint32_t i = 0; i < 64 * BUCKETS_PER_OCTAVE; i++) {
        seen += histogram->counts[i];
        if (seen > wanted) {
            uint32_t octave = i / BUCKETS_PER_OCTAVE, step = i % BUCKETS_PER_OCTAVE;
            uint64_t value = octave == 0 ? step : (uint64_t)(step + BUCKETS_PER_OCTAVE) << (octave - 1);
            return (double)value / 1e6;
        }
    }
    return 0;
}

static void start_job(uint32_t index)
{
    struct slot *slot = &slots[index];
    slot->checker.job = slot->round * phase.streams + index;
    slot->checker.next_event = 0;
    slot->checker.held = 0;
    slot->wrong = false;
    slot->running = true;
    slot->first_byte_ns = 0;
    slot->sent_ns = now_ns();
    if (target_port != 0)
        client_start_job(index);
    else
        coordinator_start_job(index);
}

static void start_phase(const struct phase *next)
{
    phase = *next;
    memset(&latency, 0, sizeof latency);
    memset(&first_byte, 0, sizeof first_byte);
    totals = (struct totals){0};
    first_error[0] = 0;
    running = phase.streams;
    began_ns = ended_ns = now_ns();
    for (uint32_t i = 0; i < phase.streams; i++) {
        slots[i].round = 0;
        start_job(i);
    }
    coordinator_flush();
}

static void count_error(const char *error)
{
    totals.errors++;
    if (first_error[0] == 0)
        snprintf(first_error, sizeof first_error, "%s", error);
}

/* The arrival time of the bytes that are being checked. */
static uint64_t arrival_ns;

void event_arrived(uint32_t job, uint32_t event, uint64_t stamp_ns)
{
    totals.events++;
    /* The first event of a job counts as its first byte, with the start of the job. */
    if (event > 0)
        record(&latency, arrival_ns > stamp_ns ? arrival_ns - stamp_ns : 0);
    server_continue(job % phase.streams);
}

void slot_received(struct slot *slot, const char *data, size_t size, uint64_t at_ns)
{
    arrival_ns = at_ns;
    if (slot->first_byte_ns == 0) {
        slot->first_byte_ns = at_ns;
        record(&first_byte, at_ns - slot->sent_ns);
    }
    if (!slot->wrong && !check_response(&slot->checker, data, size))
        slot->wrong = true;
}

void slot_ended(struct slot *slot, const char *error)
{
    if (error == NULL && slot->wrong)
        error = "a byte of the response is wrong";
    else if (error == NULL && !check_complete(&slot->checker))
        error = "the response is incomplete";
    if (error != NULL)
        count_error(error);
    totals.jobs++;
    slot->running = false;
    ended_ns = now_ns();
    if (++slot->round < phase.rounds)
        start_job((uint32_t)(slot - slots));
    else
        running--;
}

static void print_figures(void)
{
    double seconds = (double)(ended_ns - began_ns) / 1e9;
    printf("{\"jobs\": %lu, \"events\": %lu, \"seconds\": %.4f, \"messages\": %lu, \"usages\": %lu, ",
           totals.jobs, totals.events, seconds, totals.messages, totals.usages);
    const struct histogram *figures[] = {&latency, &first_byte};
    const char *names[] = {"latency_ms", "first_byte_ms"};
    for (int i = 0; i < 2; i++)
        printf("\"%s\": {\"p50\": %.4f, \"p99\": %.4f, \"p999\": %.4f}, ", names[i],
               quantile_ms(figures[i], 0.5), quantile_ms(figures[i], 0.99),
               quantile_ms(figures[i], 0.999));
    for (char *at = first_error; *at; at++)
        if (*at == '"' || *at == '\\' || (unsigned char)*at < ' ')
            *at = '\'';
    printf("\"errors\": %lu, \"error\": \"%s\"}\n", totals.errors, first_error);
    fflush(stdout);
}

static void on_input(struct conn *conn, uint32_t events)
{
    (void)events;
    char line[64];
    if (read(conn->fd, line, sizeof line) > 0) {
        may_start = true;
        return;
    }
    input_ended = true;
}

/* Run until all jobs of the phase have ended; return false after `timeout_s`. */
static bool run_phase(const struct phase *next, uint32_t timeout_s)
{
    start_phase(next);
    while (running > 0 && now_ns() - began_ns < timeout_s * 1000000000ull) {
        poll_once(TICK_MS);
        coordinator_flush();
    }
    return running == 0;
}

static void check_deadline(uint64_t started_ns)
{
    if (now_ns() - started_ns > START_TIMEOUT_S * 1000000000ull)
        fatal("the relay does not work after %d s: %s", START_TIMEOUT_S, first_error);
    if (input_ended)
        exit(1);
}

/* Run a few jobs, so that nothing is measured that happens once per process. */
static void warm_up(void)
{
    struct phase jobs = {1, 1, WARM_UP_ROUNDS, WARM_UP_EVENTS, FLAT_OUT, 0};
    uint64_t started_ns = now_ns();
    while (target_port == 0 && !coordinator_ready()) {
        poll_once(TICK_MS);
        check_deadline(started_ns);
    }
    while (!run_phase(&jobs, START_TIMEOUT_S) || totals.errors > 0) {
        if (target_port == 0)
            fatal("the warm-up failed: %s", first_error);
        check_deadline(started_ns); /* a relay that listens may not do so yet */
        usleep(RETRY_MS * 1000);
    }
}

static void parse_options(int count, char **arguments)
{
    static const struct option names[] = {
        {"target", 1, 0, 't'}, {"backends", 1, 0, 'b'}, {"streams", 1, 0, 's'},
        {"jobs", 1, 0, 'j'}, {"events", 1, 0, 'e'},   {"rate", 1, 0, 'r'},
        {"prompt", 1, 0, 'p'}, {"ping-pong", 0, 0, 'P'}, {"loose", 0, 0, 'l'},
        {"timeout", 1, 0, 'T'}, {"receipts", 0, 0, 'R'}, {"certificate", 1, 0, 'c'}, {0},
    };
    int option;
    while ((option = getopt_long(count, arguments, "", names, NULL)) != -1) {
        switch (option) {
        case 't': target_port = (uint16_t)atoi(optarg); break;
        case 'b': backends = (uint32_t)atoi(optarg); break;
        case 's': load.streams = (uint32_t)atoi(optarg); break;
        case 'j': load.rounds = (uint32_t)atoi(optarg); break;
        case 'e': load.events = (uint32_t)atoi(optarg); break;
        case 'r': load.rate = atof(optarg); break;
        case 'p': prompt_bytes = (size_t)atol(optarg); break;
        case 'P': load.pacing = PING_PONG; break;
        case 'l': loose = true; break;
        case 'R': receipts = true; break;
        case 'c': tls_init(optarg); break;
        case 'T': run_timeout_s = (uint32_t)atoi(optarg); break;
        default:
            exit(2);
        }
    }
    if (load.pacing != PING_PONG)
        load.pacing = load.rate > 0 ? PACED : FLAT_OUT; /* --rate 0: at an unlimited rate */
    if (load.streams == 0 || load.rounds == 0 || load.events == 0 || backends == 0)
        fatal("--streams, --jobs, --events and --backends must be positive");
    max_streams = load.streams;
}

static void open_ports(void)
{
    printf("{");
    if (target_port == 0)
        printf("\"coordinator\": %u, ", coordinator_listen());
    printf("\"servers\": [");
    for (uint32_t i = 0; i < backends; i++)
        printf("%s%u", i ? ", " : "", server_listen());
    printf("]}\n");
    fflush(stdout);
}

int main(int count, char **arguments)
{
    parse_options(count, arguments);
    slots = allocate(max_streams, sizeof *slots);
    text_init(prompt_bytes);
    conn_add(&input, STDIN_FILENO, on_input);
    open_ports();
    warm_up();
    puts("{\"ready\": true}");
    fflush(stdout);
    while (!may_start && !input_ended)
        poll_once(-1);
    if (!run_phase(&load, run_timeout_s))
        count_error("not all jobs ended in time");
    print_figures();
    while (!input_ended)
        poll_once(-1);
    return 0;
}

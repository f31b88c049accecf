/* A stand-in for NVIDIA's CUDA driver: enough of it to run a streaming program without a GPU, and to find its mistakes.
 *
 * Streams are queues with a thread each, so that work really overlaps; what a program forgets to wait for goes wrong
 * here as it would on a GPU. Beside that, each operation declares the memory that it reads and writes, and carries a
 * vector clock that says what is ordered before it. Two operations that touch the same bytes, one of them writing, with
 * no order between them, are reported as a race whether or not it showed this time. Clocks are computed when an
 * operation is enqueued, so what is found does not depend on timing.
 *
 * Device memory is one file in memory, mapped twice: where programs see it, it cannot be touched (a host access is a
 * segmentation fault), and the stand-in works on the other mapping, `resolve` away.
 *
 * One mutex guards everything; no callback runs under it. Python callers may hold the interpreter's lock in any
 * function except the synchronising ones, and callbacks need it, so that nothing else here ever waits for a stream:
 * memory that is freed is given back once the work enqueued before has run.
 *
 * What it cannot see: what the host does with pinned and mapped memory (see standin_host_access, and the poison in
 * `enqueue`), and missing order between threads of the host, which are taken as one.
 *
 * Functions named cu* are the driver's; those named standin_* are for the tests. cuda_driver.py builds and wraps this,
 * and adds a stub for every other function of cuda.h, since callers need the names at least.
 */
#define _GNU_SOURCE
#include <cuda.h>
#include <cudaProfiler.h>
#include <ctype.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#if CUDA_VERSION < 13000
#error "needs the headers of CUDA 13.0 or later"
#endif

enum {
    MAX_DEVICES = 8,
    MAX_STREAMS = 128, /* at once; of these, one for each device is its null stream */
    MAX_DEPTH = 64,    /* of a thread's stack of contexts */
    MAX_RANGES = 32,   /* that one operation touches */
    MAX_NODES = 256,   /* of a graph */
    MAX_REPORTS = 1000,
    PAGE = 4096,
    POISON_FRESH = 0xCB,
    POISON_PENDING = 0xA5,
};
#define ARENA ((size_t)64 << 30)       /* of addresses; memory is taken as it is written */
#define MOST_POISON ((size_t)64 << 20) /* of one allocation, so that tests with huge ones do not need the memory */
#define FIRST_TOKEN ((uintptr_t)1 << 60)

/* ---- counters: Counters in cuda_driver.py has the same names ---- */

#define COUNTERS(X)                                                                                                    \
    X(device_allocations) X(device_bytes) X(host_allocations) X(host_bytes) X(streams) X(events) X(graphs)             \
    X(graph_execs) X(contexts) X(pushed) X(peak_device_bytes) X(total_device_allocations) X(total_host_allocations)    \
    X(htod_sync) X(htod_async) X(dtoh_sync) X(dtoh_async) X(dtod_sync) X(dtod_async) X(htod_bytes) X(dtoh_bytes)       \
    X(dtod_bytes) X(memsets) X(pageable_copies) X(null_stream_operations) X(launches) X(captures) X(graph_launches)    \
    X(stream_synchronises) X(event_synchronises) X(context_synchronises) X(event_records) X(calls)
#define AS_FIELD(name) int64_t name;
#define AS_TEXT(name) #name,
static struct {
    COUNTERS(AS_FIELD)
} count;
static const char *const counter_names[] = {COUNTERS(AS_TEXT)};
enum { COUNTER_COUNT = sizeof counter_names / sizeof *counter_names };

/* ---- what there is ---- */

typedef struct Device Device;
typedef struct Context Context;
typedef struct Stream Stream;
typedef struct Graph Graph;
typedef struct Exec Exec;

typedef uint32_t Clock[MAX_STREAMS]; /* for each stream, the newest operation known to be over */
typedef struct {
    uint64_t bits[MAX_NODES / 64];
} Nodes;

/* What an event stands for since it was last recorded. */
typedef struct {
    int references;
    int slot;
    uint32_t sequence;
    double seconds;
    Clock clock;
    uint64_t capture; /* recorded within this capture instead, after these nodes */
    Nodes nodes;
} Moment;

typedef struct Event {
    struct Event *next;
    Context *context;
    unsigned flags;
    Moment *moment; /* NULL until recorded */
} Event;

typedef enum { HTOD, DTOH, DTOD, MEMSET, LAUNCH, RECORD, WAIT, GRAPH } Kind;
static const char *const kind_names[] = {"HtoD", "DtoH", "DtoD", "memset", "launch", "record", "wait", "graph"};

typedef struct {
    uintptr_t start;
    size_t bytes;
    bool reads, writes;
} Range;

/* One operation, as its arguments say. */
typedef struct {
    Kind kind;
    uintptr_t to, from;
    size_t bytes;
    unsigned value, width; /* of a memset */
    void *snapshot;        /* pageable memory as it was when the copy was enqueued */
    int (*callback)(uintptr_t);
    uintptr_t user;
    Moment *moment;
    Exec *exec;
    char label[64];
    int range_count;
    Range ranges[MAX_RANGES];
} Work;

/* One operation in a stream's queue. */
typedef struct Op {
    struct Op *next;
    uint32_t sequence;
    uint32_t after[MAX_STREAMS]; /* what has to be over in each stream before it starts; 0 where nothing */
    Work work;
} Op;

struct Stream {
    Context *context;
    Device *device;
    int slot, number; /* its place in the clocks, which is used again; its place in the order of creation */
    unsigned flags;
    bool alive, held, has_thread;
    Op *first, *last;
    uint32_t enqueued, done; /* these two go on when the slot is used again */
    Clock clock;             /* what is over before the next operation starts */
    uint32_t pending[MAX_STREAMS];
    struct Capture *capture;
    Nodes tail; /* in a capture: what the next operation comes after */
};

typedef struct {
    Work work;
    Nodes before;
} Node;

/* Something of a caller's that is destroyed with the last graph that holds it. */
typedef struct UserObject {
    struct UserObject *next;
    unsigned references;
    void *pointer;
    CUhostFn destroy;
} UserObject;

typedef struct Held {
    struct Held *next;
    UserObject *object;
    unsigned times;
} Held;

struct Graph {
    Graph *next;
    int references;
    bool alive;
    Held *held;
    int node_count;
    Node nodes[MAX_NODES];
};

struct Exec {
    Exec *next;
    int references;
    bool alive;
    Graph *graph;
    Held *held;
    int slot; /* of its last launch, which the next one waits for */
    uint32_t sequence;
    Clock clock;
};

typedef struct Capture {
    struct Capture *next;
    uint64_t id;
    Graph *graph;
    Stream *origin;
    Context *context;
    CUstreamCaptureMode mode;
    pthread_t thread;
    bool invalid;
} Capture;

struct Context {
    Context *next;
    Device *device;
    int retains;
    unsigned flags;
    bool primary;
};

struct Device {
    int ordinal, physical;
    Context primary;
    Stream null;
    size_t used;
    CUresult failure; /* of something that ran: from then on, all calls return it */
};

typedef struct Memory {
    struct Memory *next;
    uintptr_t start;
    size_t bytes;
    Device *device;  /* NULL for the host's */
    unsigned flags;  /* of host memory */
    bool registered; /* host memory that is the caller's */
    bool freed;      /* but work enqueued before may use it */
} Memory;

/* A part of memory that an operation touched, kept while an operation to come could be unordered with it. */
typedef struct {
    uintptr_t start, end;
    bool writes;
    Stream *stream;
    int slot, number;
    uint32_t sequence;
    char label[64];
} Access;

typedef struct Deferred {
    struct Deferred *next;
    Memory *memory;
    uint32_t after[MAX_STREAMS];
} Deferred;

typedef struct {
    int stream;
    char kind[64];
    double start, end;
} Timing;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool initialised, forked;

static Device devices[MAX_DEVICES];
static int device_count;
static Context *contexts; /* those that are no device's primary one */
static Stream *streams[MAX_STREAMS];
static int streams_made;
static Event *events;
static Graph *graphs;
static Exec *execs;
static UserObject *user_objects, *doomed; /* doomed are those that nothing holds any more */
static Capture *captures;
static uint64_t captures_made;
static Memory *device_memory, *host_memory;
static Deferred *deferred;
/* Device memory as programs see it, as the stand-in does, and the next address to give out. */
static uintptr_t arena, alias, cursor;
static uintptr_t next_token = FIRST_TOKEN;
static struct {
    uintptr_t start, end;
} freed[256]; /* the latest, for messages */
static int freed_count;

static Clock host_clock;
static Access *accesses;
static int access_count, access_room;
static char *races[MAX_REPORTS], *messages[MAX_REPORTS];
static int race_count, message_count;
static Timing *timings;
static int timing_count, timing_room;

static __thread Context *stack[MAX_DEPTH];
static __thread int depth;

static struct {
    char name[200];
    int major, minor, multiprocessors, integrated, can_map;
    size_t memory, limit, host_limit;
    uint32_t seed, most_microseconds, launch_microseconds;
    double copy_rate; /* bytes a second; 0 for as fast as it goes */
} settings;

static struct {
    char function[64];
    CUresult code;
    int after, times;
} failures[16];

/* ---- small things ---- */

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void pause_seconds(double seconds) {
    if (seconds <= 0) return;
    struct timespec time = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&time, NULL);
}

static void add_text(char **list, int *length, const char *format, va_list arguments) {
    if (*length < MAX_REPORTS && vasprintf(&list[*length], format, arguments) >= 0) ++*length;
}

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    add_text(messages, &message_count, format, arguments);
    va_end(arguments);
}

__attribute__((format(printf, 1, 2))) static void report_race(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    add_text(races, &race_count, format, arguments);
    va_end(arguments);
}

static void join(Clock clock, const Clock other) {
    for (int i = 0; i < MAX_STREAMS; i++)
        if (other[i] > clock[i]) clock[i] = other[i];
}

static bool has_node(const Nodes *nodes, int node) { return nodes->bits[node / 64] >> (node % 64) & 1; }

static void add_nodes(Nodes *nodes, const Nodes *other) {
    for (int i = 0; i < MAX_NODES / 64; i++) nodes->bits[i] |= other->bits[i];
}

static bool within(const Nodes *nodes, const Nodes *others) {
    for (int i = 0; i < MAX_NODES / 64; i++)
        if (nodes->bits[i] & ~others->bits[i]) return false;
    return true;
}

static void drop_moment(Moment *moment) {
    if (moment && --moment->references == 0) free(moment);
}

static void release_object(UserObject *object, unsigned times) {
    object->references -= times;
    if (object->references) return;
    for (UserObject **place = &user_objects; *place; place = &(*place)->next)
        if (*place == object) {
            *place = object->next;
            break;
        }
    object->next = doomed;
    doomed = object;
}

static void release_held(Held *held) {
    while (held) {
        Held *this = held;
        held = this->next;
        release_object(this->object, this->times);
        free(this);
    }
}

/* Call the destructors of what is doomed; the mutex, held before and after, is not meanwhile. */
static void bury(void) {
    while (doomed) {
        UserObject *object = doomed;
        doomed = object->next;
        pthread_mutex_unlock(&mutex);
        object->destroy(object->pointer);
        free(object);
        pthread_mutex_lock(&mutex);
    }
}

static void drop_graph(Graph *graph) {
    if (--graph->references > 0) return;
    release_held(graph->held);
    for (Graph **place = &graphs; *place; place = &(*place)->next)
        if (*place == graph) {
            *place = graph->next;
            break;
        }
    free(graph);
}

static void drop_exec(Exec *exec) {
    if (--exec->references > 0) return;
    for (Exec **place = &execs; *place; place = &(*place)->next)
        if (*place == exec) {
            *place = exec->next;
            break;
        }
    release_held(exec->held);
    drop_graph(exec->graph);
    free(exec);
}

/* ---- memory ---- */

static bool in_arena(uintptr_t address) { return arena && address >= arena && address < arena + ARENA; }

static uintptr_t accessible(uintptr_t address) { return in_arena(address) ? address - arena + alias : address; }

static Memory *memory_at(uintptr_t address, size_t bytes) {
    for (Memory *memory = in_arena(address) ? device_memory : host_memory; memory; memory = memory->next)
        if (!memory->freed && address >= memory->start && address - memory->start < memory->bytes &&
            bytes <= memory->bytes - (address - memory->start))
            return memory;
    return NULL;
}

static void poison(uintptr_t start, size_t bytes, int value) {
    memset((void *)accessible(start), value, bytes < MOST_POISON ? bytes : MOST_POISON);
}

/* Say what is wrong with a range of device memory, or of what a device can see. */
static CUresult check(uintptr_t start, size_t bytes, const char *what) {
    if (start >= FIRST_TOKEN || memory_at(start, bytes)) return CUDA_SUCCESS;
    for (int i = 0; i < freed_count && i < 256; i++)
        if (start >= freed[i].start && start < freed[i].end) {
            say("%s: %zu bytes at %#zx, of memory that was freed", what, bytes, (size_t)start);
            return CUDA_ERROR_INVALID_VALUE;
        }
    Memory *memory = memory_at(start, 1);
    if (memory)
        say("%s: out of bounds: %zu bytes from byte %zu of an allocation of %zu bytes", what, bytes,
            (size_t)(start - memory->start), memory->bytes);
    else
        say("%s: %zu bytes at %#zx, which is no allocation", what, bytes, (size_t)start);
    return CUDA_ERROR_INVALID_VALUE;
}

static size_t whole_pages(size_t bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }

/* A place for so many bytes, and a page behind that nothing lies in; addresses are used again only once all were. */
static uintptr_t place(size_t bytes) {
    size_t room = whole_pages(bytes) + PAGE;
    for (int round = 0; round < 2; round++, cursor = arena) {
        for (bool moved = true; moved;) {
            moved = false;
            for (Memory *memory = device_memory; memory; memory = memory->next) {
                uintptr_t end = memory->start + whole_pages(memory->bytes) + PAGE;
                if (memory->start < cursor + room && cursor < end) {
                    cursor = end;
                    moved = true;
                }
            }
        }
        if (cursor + room > arena + ARENA) continue;
        cursor += room;
        return cursor - room;
    }
    return 0;
}

static void forget_accesses(uintptr_t start, uintptr_t end) {
    int kept = 0;
    for (int i = 0; i < access_count; i++)
        if (accesses[i].end <= start || end <= accesses[i].start) accesses[kept++] = accesses[i];
    access_count = kept;
}

static void release_memory(Memory *memory) {
    Memory **list = memory->device ? &device_memory : &host_memory;
    while (*list != memory) list = &(*list)->next;
    *list = memory->next;
    if (memory->device) {
        /* No need to spoil it: every use is refused from now on. */
        madvise((void *)accessible(memory->start), whole_pages(memory->bytes), MADV_REMOVE);
    } else if (!memory->registered) {
        munmap((void *)memory->start, memory->bytes);
    }
    free(memory);
}

static bool all_done(const uint32_t *after) {
    for (int i = 0; i < MAX_STREAMS; i++)
        if (after[i] && streams[i]->done < after[i]) return false;
    return true;
}

static void enqueued_now(uint32_t *after) {
    for (int i = 0; i < MAX_STREAMS; i++) after[i] = streams[i] ? streams[i]->enqueued : 0;
}

/* Give back what was freed, where no work that was enqueued before is left. */
static void sweep(void) {
    for (Deferred **next = &deferred; *next;) {
        Deferred *this = *next;
        if (!all_done(this->after)) {
            next = &this->next;
            continue;
        }
        *next = this->next;
        release_memory(this->memory);
        free(this);
    }
}

static void free_later(Memory *memory) {
    memory->freed = true;
    freed[freed_count % 256].start = memory->start;
    freed[freed_count++ % 256].end = memory->start + memory->bytes;
    forget_accesses(memory->start, memory->start + memory->bytes);
    Deferred *entry = calloc(1, sizeof *entry);
    entry->memory = memory;
    enqueued_now(entry->after);
    entry->next = deferred;
    deferred = entry;
    sweep();
}

/* ---- entering and leaving the driver ---- */

static CUresult leave(CUresult result) {
    bury();
    pthread_mutex_unlock(&mutex);
    return result;
}

static bool is_function(const char *exported, const char *name) {
    size_t length = strlen(name);
    if (strncmp(exported, name, length)) return false;
    const char *rest = exported + length;
    return !*rest || (rest[0] == '_' && rest[1] == 'v' && isdigit((unsigned char)rest[2]));
}

/* Begin a function that needs no context. Unless it returns an error, the mutex is held. */
static CUresult enter(const char *function) {
    /* In a forked process the mutex may be held by a thread that is not there. */
    if (forked) return CUDA_ERROR_NOT_INITIALIZED;
    pthread_mutex_lock(&mutex);
    count.calls++;
    for (int i = 0; i < 16; i++)
        if (failures[i].times && is_function(function, failures[i].function) && failures[i].after-- <= 0) {
            failures[i].times--;
            return leave(failures[i].code);
        }
    return initialised ? CUDA_SUCCESS : leave(CUDA_ERROR_NOT_INITIALIZED);
}

static Context *current(void) { return depth ? stack[depth - 1] : NULL; }

/* Begin a function that needs a context. One that frees something does so in spite of an earlier failure, unlike the
 * driver, so that what a program forgets can be told from what it could not free. */
static CUresult enter_context(const char *function, bool frees) {
    CUresult result = enter(function);
    if (result) return result;
    Context *context = current();
    if (!context) return leave(CUDA_ERROR_INVALID_CONTEXT);
    if (!context->retains) return leave(CUDA_ERROR_CONTEXT_IS_DESTROYED);
    return context->device->failure && !frees ? leave(context->device->failure) : CUDA_SUCCESS;
}

#define ENTER()                                                                                                        \
    do {                                                                                                               \
        CUresult entered = enter(__func__);                                                                            \
        if (entered) return entered;                                                                                   \
    } while (0)
#define ENTER_CONTEXT()                                                                                                \
    do {                                                                                                               \
        CUresult entered = enter_context(__func__, false);                                                             \
        if (entered) return entered;                                                                                   \
    } while (0)
#define ENTER_TO_FREE()                                                                                                \
    do {                                                                                                               \
        CUresult entered = enter_context(__func__, true);                                                              \
        if (entered) return entered;                                                                                   \
    } while (0)

static CUresult leave_freed(void) { return leave(current()->device->failure); }

static Stream *find_stream(CUstream handle) {
    Context *context = current();
    if (!handle || handle == CU_STREAM_LEGACY) return context ? &context->device->null : &devices[0].null;
    for (int i = MAX_DEVICES; i < MAX_STREAMS; i++)
        if (streams[i] == (Stream *)handle && streams[i]->alive) return streams[i];
    return NULL;
}

static Event *find_event(CUevent handle) {
    for (Event *event = events; event; event = event->next)
        if (event == (Event *)handle) return event;
    return NULL;
}

static Graph *find_graph(CUgraph handle) {
    for (Graph *graph = graphs; graph; graph = graph->next)
        if (graph == (Graph *)handle && graph->alive) return graph;
    return NULL;
}

static Exec *find_exec(CUgraphExec handle) {
    for (Exec *exec = execs; exec; exec = exec->next)
        if (exec == (Exec *)handle && exec->alive) return exec;
    return NULL;
}

static Context *find_context(CUcontext handle) {
    for (int i = 0; i < device_count; i++)
        if (&devices[i].primary == (Context *)handle) return &devices[i].primary;
    for (Context *context = contexts; context; context = context->next)
        if (context == (Context *)handle) return context;
    return NULL;
}

/* A call that is not allowed while a stream is captured, in the mode that the capture was begun with. */
static CUresult unsafe(const char *function) {
    CUresult result = CUDA_SUCCESS;
    for (Capture *capture = captures; capture; capture = capture->next) {
        bool own = pthread_equal(capture->thread, pthread_self());
        if (capture->mode == CU_STREAM_CAPTURE_MODE_RELAXED) continue;
        if (capture->mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL && !own) continue;
        say("%s: not allowed while a stream is captured", function);
        capture->invalid = true;
        result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return result;
}

/* ---- races ---- */

static const char *verb(bool writes) { return writes ? "writes" : "reads"; }

static void describe(char *text, size_t room, uintptr_t start, uintptr_t end) {
    Memory *memory = memory_at(start, 1);
    if (start >= FIRST_TOKEN)
        snprintf(text, room, "the same object");
    else if (memory)
        snprintf(text, room, "bytes %zu to %zu of %s allocation of %zu bytes at %#zx", (size_t)(start - memory->start),
                 (size_t)(end - memory->start), memory->device ? "a device" : "a host", memory->bytes,
                 (size_t)memory->start);
    else
        snprintf(text, room, "%zu bytes of pageable memory at %#zx", (size_t)(end - start), (size_t)start);
}

static void stream_name(char *text, size_t room, const Stream *stream, int number) {
    if (number)
        snprintf(text, room, "stream %d", number);
    else
        snprintf(text, room, "the null stream of device %d", stream->device->ordinal);
}

/* Compare what an operation touches with all that was enqueued before, and remember it. */
static void check_order(Stream *stream, const Work *work, uint32_t sequence, const Clock clock) {
    for (int i = 0; i < work->range_count; i++) {
        const Range *range = &work->ranges[i];
        uintptr_t start = range->start, end = start + range->bytes;
        int kept = 0;
        for (int j = 0; j < access_count; j++) {
            Access *other = &accesses[j];
            bool overlap = other->start < end && start < other->end;
            bool ordered = other->sequence <= clock[other->slot];
            bool own = other->slot == stream->slot && other->sequence == sequence;
            if (overlap && !ordered && !own && (range->writes || other->writes)) {
                char where[200], here[64], there[64];
                describe(where, sizeof where, start > other->start ? start : other->start,
                         end < other->end ? end : other->end);
                stream_name(here, sizeof here, stream, stream->number);
                stream_name(there, sizeof there, other->stream, other->number);
                report_race("%s on %s (its operation %u) %s %s, not ordered after %s on %s (its operation %u), which "
                            "%s it",
                            work->label, here, sequence, verb(range->writes), where, other->label, there,
                            other->sequence, verb(other->writes));
            }
            /* What the host waited for comes before all that is to come; and what comes before a write to all of its
             * bytes comes before whatever is ordered after that write. */
            bool covered = range->writes && ordered && start <= other->start && other->end <= end;
            bool over = other->sequence <= host_clock[other->slot];
            if (!over && !covered) accesses[kept++] = *other;
        }
        access_count = kept;
        if (access_count == access_room) {
            access_room = access_room * 2 + 64;
            accesses = realloc(accesses, (size_t)access_room * sizeof *accesses);
        }
        Access *own = &accesses[access_count++];
        *own = (Access){start, end, range->writes, stream, stream->slot, stream->number, sequence, ""};
        strcpy(own->label, work->label);
    }
}

/* Spoil the host memory that an operation is to write, from now on, unless an earlier one is still to use it: so that a
 * host that reads too early gets nonsense instead of what a copy before left there. */
static void spoil(const Work *work) {
    for (int i = 0; i < work->range_count; i++) {
        const Range *range = &work->ranges[i];
        Memory *memory = range->reads || !range->writes || in_arena(range->start) ? NULL : memory_at(range->start, 1);
        bool used = !memory;
        for (int j = 0; j < access_count && !used; j++) {
            Access *other = &accesses[j];
            used = other->start < range->start + range->bytes && range->start < other->end &&
                   streams[other->slot]->done < other->sequence;
        }
        for (int j = 0; j < work->range_count && !used; j++)
            used = work->ranges[j].reads && work->ranges[j].start < range->start + range->bytes &&
                   range->start < work->ranges[j].start + work->ranges[j].bytes;
        if (!used) poison(range->start, range->bytes, POISON_PENDING);
    }
}

/* ---- running ---- */

static void add_timing(const Stream *stream, const char *kind, double start) {
    if (timing_count == timing_room) {
        timing_room = timing_room * 2 + 256;
        timings = realloc(timings, (size_t)timing_room * sizeof *timings);
    }
    timings[timing_count] = (Timing){stream->number, "", start, now()};
    strcpy(timings[timing_count++].kind, kind);
}

/* How long an operation is to take at least; the same each time for the same seed and place. */
static double delay_of(const Stream *stream, uint32_t sequence, const Work *work) {
    double seconds = 0;
    if (settings.most_microseconds) {
        uint64_t mixed = settings.seed * 0x9E3779B97F4A7C15u + (uint64_t)stream->slot * 0xBF58476D1CE4E5B9u + sequence;
        mixed = (mixed ^ mixed >> 30) * 0x94D049BB133111EBu;
        mixed ^= mixed >> 31;
        seconds += (double)(mixed % (settings.most_microseconds + 1)) * 1e-6;
    }
    if (work->kind <= DTOD && settings.copy_rate > 0) seconds += (double)work->bytes / settings.copy_rate;
    if (work->kind == LAUNCH) seconds += settings.launch_microseconds * 1e-6;
    return seconds;
}

static CUresult perform(const Work *work) {
    unsigned char *to = (unsigned char *)accessible(work->to);
    switch (work->kind) {
    case HTOD:
    case DTOH:
    case DTOD:
        memmove(to, work->snapshot ? work->snapshot : (void *)accessible(work->from), work->bytes);
        break;
    case MEMSET:
        for (size_t i = 0; i < work->bytes; i += work->width) memcpy(to + i, &work->value, work->width);
        break;
    case LAUNCH:
        if (work->callback(work->user)) return CUDA_ERROR_LAUNCH_FAILED;
        break;
    default:
        break;
    }
    return CUDA_SUCCESS;
}

/* Run one operation; the mutex is held before and after, not meanwhile. */
static void run(Stream *stream, uint32_t sequence, const Work *work) {
    double start = now(), delay = delay_of(stream, sequence, work);
    CUresult result = CUDA_SUCCESS;
    if (work->kind != RECORD && work->kind != WAIT && !stream->device->failure) {
        pthread_mutex_unlock(&mutex);
        pause_seconds(delay);
        result = perform(work);
        pthread_mutex_lock(&mutex);
    }
    if (result) stream->device->failure = result;
    if (work->moment) work->moment->seconds = now();
    if (work->kind != RECORD && work->kind != WAIT) add_timing(stream, kind_names[work->kind], start);
}

static void *serve(void *argument) {
    Stream *stream = argument;
    pthread_mutex_lock(&mutex);
    while (stream->alive || stream->first) {
        Op *op = stream->first;
        if (!op || stream->held || !all_done(op->after)) {
            pthread_cond_wait(&changed, &mutex);
            continue;
        }
        if (op->work.exec) {
            Graph *graph = op->work.exec->graph;
            for (int i = 0; i < graph->node_count; i++)
                run(stream, op->sequence * MAX_NODES + i, &graph->nodes[i].work);
            drop_exec(op->work.exec);
        } else {
            run(stream, op->sequence, &op->work);
        }
        stream->first = op->next;
        if (!op->next) stream->last = NULL;
        stream->done = op->sequence;
        drop_moment(op->work.moment);
        free(op->work.snapshot);
        free(op);
        sweep();
        pthread_cond_broadcast(&changed);
        bury();
    }
    stream->has_thread = false; /* from here on the slot can be used again */
    pthread_mutex_unlock(&mutex);
    return NULL;
}

static bool is_blocking(const Stream *stream) { return !(stream->flags & CU_STREAM_NON_BLOCKING); }

static void come_after(Stream *stream, const Stream *other) {
    stream->pending[other->slot] = other->enqueued;
    join(stream->clock, other->clock);
}

static CUresult append(Capture *capture, Stream *stream, const Work *work) {
    Graph *graph = capture->graph;
    if (capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (graph->node_count == MAX_NODES) return CUDA_ERROR_OUT_OF_MEMORY;
    Node *node = &graph->nodes[graph->node_count];
    node->work = *work;
    node->before = stream->tail;
    stream->tail.bits[graph->node_count / 64] |= (uint64_t)1 << (graph->node_count % 64);
    graph->node_count++;
    return CUDA_SUCCESS;
}

/* A captured stream that the null stream would have to wait for; NULL where there is none. */
static Stream *captured_beside(const Stream *null) {
    for (int i = MAX_DEVICES; i < MAX_STREAMS; i++)
        if (streams[i] && streams[i]->capture && streams[i]->device == null->device && is_blocking(streams[i]))
            return streams[i];
    return NULL;
}

/* Refuse a use of the null stream while there is one, which spoils the capture. */
static CUresult refuse_implicit(const Stream *null, const char *what) {
    const Stream *stream = captured_beside(null);
    if (!stream) return CUDA_SUCCESS;
    say("%s on the null stream while stream %d, which waits for it, is captured", what, stream->number);
    stream->capture->invalid = true;
    return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
}

static CUresult check_ranges(const Stream *stream, const Work *work) {
    for (int i = 0; i < work->range_count; i++) {
        const Range *range = &work->ranges[i];
        if (work->kind != LAUNCH && !in_arena(range->start)) continue; /* a copy's end in host memory */
        CUresult result = check(range->start, range->bytes, work->label);
        if (result) return result;
        Memory *memory = memory_at(range->start, range->bytes);
        if (work->kind != LAUNCH || !memory) continue;
        if (memory->device && memory->device != stream->device) {
            say("%s: uses memory of device %d on device %d", work->label, memory->device->ordinal,
                stream->device->ordinal);
            return CUDA_ERROR_ILLEGAL_ADDRESS;
        }
        if (!memory->device && !(memory->flags & CU_MEMHOSTALLOC_DEVICEMAP)) {
            say("%s: uses host memory that is not mapped", work->label);
            return CUDA_ERROR_ILLEGAL_ADDRESS;
        }
    }
    return CUDA_SUCCESS;
}

static void count_work(const Work *work, bool synchronous) {
    switch (work->kind) {
    case HTOD:
        ++*(synchronous ? &count.htod_sync : &count.htod_async);
        count.htod_bytes += (int64_t)work->bytes;
        break;
    case DTOH:
        ++*(synchronous ? &count.dtoh_sync : &count.dtoh_async);
        count.dtoh_bytes += (int64_t)work->bytes;
        break;
    case DTOD:
        ++*(synchronous ? &count.dtod_sync : &count.dtod_async);
        count.dtod_bytes += (int64_t)work->bytes;
        break;
    case MEMSET:
        count.memsets++;
        break;
    case LAUNCH:
        count.launches++;
        break;
    default:
        break;
    }
}

/* Put an operation into a stream's queue, or into the graph where the stream is captured. */
static CUresult enqueue(Stream *stream, const Work *work, bool synchronous) {
    Device *device = stream->device;
    CUresult result = check_ranges(stream, work);
    if (result) return result;
    if (stream->capture) return append(stream->capture, stream, work);
    if (stream == &device->null) {
        result = refuse_implicit(stream, work->label);
        if (result) return result;
        count.null_stream_operations++;
        for (int i = MAX_DEVICES; i < MAX_STREAMS; i++)
            if (streams[i] && streams[i]->device == device && is_blocking(streams[i])) come_after(stream, streams[i]);
    } else if (is_blocking(stream)) {
        come_after(stream, &device->null);
    }
    Op *op = calloc(1, sizeof *op);
    op->work = *work;
    op->sequence = ++stream->enqueued;
    memcpy(op->after, stream->pending, sizeof op->after);
    memset(stream->pending, 0, sizeof stream->pending);
    join(stream->clock, host_clock);
    stream->clock[stream->slot] = op->sequence;
    if (work->moment) {
        Moment *moment = work->moment;
        moment->references++;
        moment->slot = stream->slot;
        moment->sequence = op->sequence;
        memcpy(moment->clock, stream->clock, sizeof moment->clock);
    }
    if (work->exec) {
        Exec *exec = work->exec;
        exec->references++;
        /* Launches of one graph never overlap. */
        if (exec->sequence) op->after[exec->slot] = exec->sequence;
        join(stream->clock, exec->clock);
        exec->slot = stream->slot;
        exec->sequence = op->sequence;
        memcpy(exec->clock, stream->clock, sizeof exec->clock);
        for (int i = 0; i < exec->graph->node_count; i++) {
            const Work *part = &exec->graph->nodes[i].work;
            spoil(part);
            check_order(stream, part, op->sequence, stream->clock);
            count_work(part, false);
        }
    }
    spoil(work);
    check_order(stream, work, op->sequence, stream->clock);
    count_work(work, synchronous);
    if (!stream->has_thread) {
        pthread_t thread;
        stream->has_thread = true;
        if (pthread_create(&thread, NULL, serve, stream)) abort();
        pthread_detach(thread);
    }
    *(stream->last ? &stream->last->next : &stream->first) = op;
    stream->last = op;
    pthread_cond_broadcast(&changed);
    return CUDA_SUCCESS;
}

/* Wait, with the mutex given up meanwhile, until an operation is over; then the host comes after it. */
static CUresult wait_for(Stream *stream, uint32_t sequence, const Clock clock) {
    Clock known;
    memcpy(known, clock, sizeof known); /* it may grow meanwhile */
    while (stream->done < sequence) pthread_cond_wait(&changed, &mutex);
    join(host_clock, known);
    return stream->device->failure;
}

static CUresult wait_for_stream(Stream *stream) { return wait_for(stream, stream->enqueued, stream->clock); }

/* ---- devices ---- */

static const char *setting(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value ? value : otherwise;
}

static size_t size_setting(const char *name, size_t otherwise) {
    const char *value = getenv(name);
    return value ? strtoull(value, NULL, 10) : otherwise;
}

static void add_device(int physical) {
    Device *device = &devices[device_count];
    device->ordinal = device_count++;
    device->physical = physical;
    device->primary.device = device;
    device->primary.primary = true;
    device->null = (Stream){.context = &device->primary, .device = device, .slot = device->ordinal, .alive = true};
    streams[device->ordinal] = &device->null;
}

/* Devices in the order of CUDA_VISIBLE_DEVICES, which ends at the first number that is none. */
static void find_devices(int there) {
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (!visible) {
        for (int i = 0; i < there; i++) add_device(i);
        return;
    }
    while (*visible && device_count < MAX_DEVICES) {
        char *end;
        long number = strtol(visible, &end, 10);
        if (end == visible || number < 0 || number >= there) return;
        add_device((int)number);
        visible = *end == ',' ? end + 1 : end;
        if (*end && *end != ',') return;
    }
}

static void note_fork(void) { forked = true; }

CUresult CUDAAPI cuInit(unsigned int flags) {
    CUresult entered = enter(__func__);
    if (entered == CUDA_SUCCESS) return leave(flags ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
    if (entered != CUDA_ERROR_NOT_INITIALIZED || forked) return entered;
    pthread_mutex_lock(&mutex);
    int there = atoi(setting("OVERNET_CUDA_DEVICES", "1"));
    snprintf(settings.name, sizeof settings.name, "%s%s", setting("OVERNET_CUDA_NAME", "Stand-in"),
             there > 1 ? " %d" : "");
    settings.major = 8, settings.minor = 7;
    sscanf(setting("OVERNET_CUDA_CAPABILITY", "8.7"), "%d.%d", &settings.major, &settings.minor);
    settings.multiprocessors = atoi(setting("OVERNET_CUDA_SMS", "8"));
    settings.integrated = atoi(setting("OVERNET_CUDA_INTEGRATED", "0"));
    settings.can_map = atoi(setting("OVERNET_CUDA_CAN_MAP", "1"));
    settings.memory = size_setting("OVERNET_CUDA_MEMORY", (size_t)8 << 30);
    settings.limit = size_setting("OVERNET_CUDA_LIMIT", settings.memory);
    settings.host_limit = size_setting("OVERNET_CUDA_HOST_LIMIT", SIZE_MAX);
    sscanf(setting("OVERNET_CUDA_DELAY", "0:0"), "%u:%u", &settings.seed, &settings.most_microseconds);
    if (there < 1 || there > MAX_DEVICES) return leave(CUDA_ERROR_NO_DEVICE);
    find_devices(there);
    if (!device_count) return leave(CUDA_ERROR_NO_DEVICE);
    int file = memfd_create("device memory", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, (off_t)ARENA)) return leave(CUDA_ERROR_OUT_OF_MEMORY);
    void *seen = mmap(NULL, ARENA, PROT_NONE, MAP_SHARED | MAP_NORESERVE, file, 0);
    void *used = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
    close(file);
    if (seen == MAP_FAILED || used == MAP_FAILED) return leave(CUDA_ERROR_OUT_OF_MEMORY);
    madvise(used, ARENA, MADV_DONTDUMP);
    arena = cursor = (uintptr_t)seen;
    alias = (uintptr_t)used;
    pthread_atfork(NULL, NULL, note_fork);
    initialised = true;
    return leave(CUDA_SUCCESS);
}

CUresult CUDAAPI cuDriverGetVersion(int *version) {
    *version = CUDA_VERSION;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetCount(int *number) {
    ENTER();
    *number = device_count;
    return leave(CUDA_SUCCESS);
}

static bool is_device(CUdevice device) { return device >= 0 && device < device_count; }

CUresult CUDAAPI cuDeviceGet(CUdevice *device, int ordinal) {
    ENTER();
    *device = ordinal;
    return leave(is_device(ordinal) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE);
}

CUresult CUDAAPI cuDeviceGetName(char *name, int length, CUdevice device) {
    ENTER();
    if (!is_device(device)) return leave(CUDA_ERROR_INVALID_DEVICE);
    /* The name ends with a place for the number where there are several devices. */
    char *number = strstr(settings.name, "%d");
    if (number)
        snprintf(name, (size_t)length, "%.*s%d", (int)(number - settings.name), settings.name,
                 devices[device].physical);
    else
        snprintf(name, (size_t)length, "%s", settings.name);
    return leave(CUDA_SUCCESS);
}

CUresult CUDAAPI cuDeviceGetUuid(CUuuid *uuid, CUdevice device) {
    ENTER();
    if (!is_device(device)) return leave(CUDA_ERROR_INVALID_DEVICE);
    memset(uuid, 0, sizeof *uuid);
    memcpy(uuid->bytes, "OVERNET-STANDIN", 15);
    uuid->bytes[15] = (char)devices[device].physical;
    return leave(CUDA_SUCCESS);
}

CUresult CUDAAPI cuDeviceGetPCIBusId(char *text, int length, CUdevice device) {
    ENTER();
    if (!is_device(device)) return leave(CUDA_ERROR_INVALID_DEVICE);
    snprintf(text, (size_t)length, "0000:%02X:00.0", devices[device].physical + 1);
    return leave(CUDA_SUCCESS);
}

CUresult CUDAAPI cuDeviceTotalMem(size_t *bytes, CUdevice device) {
    ENTER();
    *bytes = settings.memory;
    return leave(is_device(device) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE);
}

CUresult CUDAAPI cuDeviceComputeCapability(int *major, int *minor, CUdevice device) {
    ENTER();
    *major = settings.major;
    *minor = settings.minor;
    return leave(is_device(device) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE);
}

CUresult CUDAAPI cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
    ENTER();
    if (!is_device(device)) return leave(CUDA_ERROR_INVALID_DEVICE);
    switch ((int)attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
        *value = settings.major;
        break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
        *value = settings.minor;
        break;
    case CU_DEVICE_ATTRIBUTE_INTEGRATED:
        *value = settings.integrated;
        break;
    case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
        *value = settings.can_map;
        break;
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
    case CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED:
        *value = 1;
        break;
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT:
        *value = 2;
        break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE:
        *value = 32;
        break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
        *value = settings.multiprocessors;
        break;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
    case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE:
        *value = 1000000; /* kHz */
        break;
    case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH:
        *value = 128;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
        *value = 1024;
        break;
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID:
        *value = devices[device].physical + 1;
        break;
    default:
        *value = 0;
    }
    return leave(CUDA_SUCCESS);
}

CUresult CUDAAPI cuDeviceCanAccessPeer(int *can, CUdevice device, CUdevice peer) {
    ENTER();
    *can = 0;
    return leave(is_device(device) && is_device(peer) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE);
}

/* ---- errors ---- */

static const struct {
    CUresult code;
    const char *name, *text;
} error_texts[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
    {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {CUDA_ERROR_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {CUDA_ERROR_NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {CUDA_ERROR_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {CUDA_ERROR_ILLEGAL_STATE, "CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"},
    {CUDA_ERROR_NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {CUDA_ERROR_NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {CUDA_ERROR_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {CUDA_ERROR_CONTEXT_IS_DESTROYED, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {CUDA_ERROR_LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {CUDA_ERROR_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {CUDA_ERROR_STREAM_CAPTURE_MERGE, "CUDA_ERROR_STREAM_CAPTURE_MERGE",
     "operation would result in a merge of separate capture sequences"},
    {CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED",
     "capture was not ended in the same stream as it began"},
    {CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED",
     "capturing stream has unjoined work"},
    {CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION",
     "dependency created on uncaptured work in another stream"},
    {CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {CUDA_ERROR_CAPTURED_EVENT, "CUDA_ERROR_CAPTURED_EVENT",
     "operation not permitted on an event last recorded in a capturing stream"},
    {CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD",
     "attempt to terminate a thread-local capture sequence from another thread"},
};

CUresult CUDAAPI cuGetErrorString(CUresult error, const char **text) {
    /* Callers use the text without looking at what is returned. */
    *text = "an error that the stand-in has no text for";
    for (size_t i = 0; i < sizeof error_texts / sizeof *error_texts; i++)
        if (error_texts[i].code == error) *text = error_texts[i].text;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGetErrorName(CUresult error, const char **name) {
    *name = "CUDA_ERROR_UNKNOWN";
    for (size_t i = 0; i < sizeof error_texts / sizeof *error_texts; i++)
        if (error_texts[i].code == error) *name = error_texts[i].name;
    return CUDA_SUCCESS;
}

/* ---- contexts ---- */

CUresult CUDAAPI cuProfilerStart(void) { return CUDA_SUCCESS; }
CUresult CUDAAPI cuProfilerStop(void) { return CUDA_SUCCESS; }

static CUresult push(Context *context) {
    if (depth == MAX_DEPTH) return CUDA_ERROR_INVALID_CONTEXT;
    stack[depth++] = context;
    count.pushed++;
    return CUDA_SUCCESS;
}

static void pop(void) {
    depth--;
    count.pushed--;
}

CUresult CUDAAPI cuDevicePrimaryCtxRetain(CUcontext *handle, CUdevice device) {
    ENTER();
    if (!is_device(device)) return leave(CUDA_ERROR_INVALID_DEVICE);
    devices[device].primary.retains++;
    count.contexts++;
    *handle = (CUcontext)&devices[device].primary;
    return leave(CUDA_SUCCESS);
}

CUresult CUDAAPI cuDevicePrimaryCtxRelease(CUdevice device) {
    ENTER();
    if (!is_device(device)) return leave(CUDA_ERROR_INVALID_DEVICE);
    if (!devices[device].primary.retains) return leave(CUDA_ERROR_INVALID_CONTEXT);
    /* What was made in it is not destroyed with the last release, as it would be: it stays in the counters, so that
     * what a program forgot to free can be seen. */
    devices[device].primary.retains--;
    count.contexts--;
    return leave(CUDA_SUCCESS);
}

CUresult CUDAAPI cuDevicePrimaryCtxGetState(CUdevice device, unsigned int *flags, int *active) {
    ENTER();
    if (!is_device(device)) return leave(CUDA_ERROR_INVALID_DEVICE);
    *flags = devices[device].primary.flags;
    *active = devices[device].primary.retains > 0;
    return leave(CUDA_SUCCESS);
}

CUresult CUDAAPI cuDevicePrimaryCtxSetFlags(CUdevice device, unsigned int flags) {
    ENTER();
    if (!is_device(device)) return leave(CUDA_ERROR_INVALID_DEVICE);
    devices[device].primary.flags = flags;
    return leave(CUDA_SUCCESS);
}

CUresult CUDAAPI cuCtxCreate(CUcontext *handle, CUctxCreateParams *parameters, unsigned int flags, CUdevice device) {
    ENTER();
    (void)parameters;
    if (!is_device(device)) return leave(CUDA_ERROR_INVALID_DEVICE);
    Context *context = calloc(1, sizeof *context);
    *context = (Context){.next = contexts, .device = &devices[device], .retains = 1, .flags = flags};
    contexts = context;
    count.contexts++;
    *handle = (CUcontext)context;
    return leave(push(context));
}

/* Contexts that were made stay in the list when they are destroyed, so that their use can be refused. */
static CUresult destroy_context(Context *context) {
    if (!context || context->primary || !context->retains) return CUDA_ERROR_INVALID_CONTEXT;
    context->retains = 0;
    count.contexts--;
    if (current() == context) pop();
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxDestroy(CUcontext handle) {
    ENTER();
    return leave(destroy_context(find_context(handle)));
}

CUresult CUDAAPI cuCtxDetach(CUcontext handle) {
    ENTER();
    return leave(destroy_context(find_context(handle)));
}

CUresult CUDAAPI cuCtxPushCurrent(CUcontext handle) {
    ENTER();
    Context *context = find_context(handle);
    return leave(context && context->retains ? push(context) : CUDA_ERROR_INVALID_CONTEXT);
}

CUresult CUDAAPI cuCtxPopCurrent(CUcontext *handle) {
    ENTER();
    if (!depth) return leave(CUDA_ERROR_INVALID_CONTEXT);
    if (handle) *handle = (CUcontext)current();
    pop();
    return leave(CUDA_SUCCESS);
}

CUresult CUDAAPI cuCtxSetCurrent(CUcontext handle) {
    ENTER();
    Context *context = find_context(handle);
    if (handle && !(context && context->retains)) return leave(CUDA_ERROR_INVALID_CONTEXT);
    if (depth) pop();
    return leave(context ? push(context) : CUDA_SUCCESS);
}

CUresult CUDAAPI cuCtxGetCurrent(CUcontext *handle) {
    ENTER();
    *handle = (CUcontext)current();
    return leave(CUDA_SUCCESS);
}

CUresult CUDAAPI cuCtxGetDevice(CUdevice *device) {
    ENTER_CONTEXT();
    *device = current()->device->ordinal;
    return leave(CUDA_SUCCESS);
}

CUresult CUDAAPI cuCtxGetFlags(unsigned int *flags) {
    ENTER_CONTEXT();
    *flags = current()->flags;
    return leave(CUDA_SUCCESS);
}

CUresult CUDAAPI cuCtxGetApiVersion(CUcontext handle, unsigned int *version) {
    ENTER();
    (void)handle;
    *version = 3020;
    return leave(CUDA_SUCCESS);
}

CUresult CUDAAPI cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    ENTER_CONTEXT();
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return leave(CUDA_SUCCESS);
}

CUresult CUDAAPI cuCtxSynchronize(void) {
    ENTER_CONTEXT();
    Device *device = current()->device;
    for (Capture *capture = captures; capture; capture = capture->next)
        if (capture->context == current()) {
            say("cuCtxSynchronize while a stream is captured");
            capture->invalid = true;
            return leave(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
    count.context_synchronises++;
    for (int i = 0; i < MAX_STREAMS; i++)
        if (streams[i] && streams[i]->device == device) wait_for_stream(streams[i]);
    return leave(device->failure);
}

/* ---- allocating ---- */

CUresult CUDAAPI cuMemAlloc(CUdeviceptr *address, size_t bytes) {
    ENTER_CONTEXT();
    Device *device = current()->device;
    CUresult result = unsafe(__func__);
    if (result) return leave(result);
    if (!bytes) return leave(CUDA_ERROR_INVALID_VALUE);
    if (bytes > settings.limit || device->used > settings.limit - bytes) return leave(CUDA_ERROR_OUT_OF_MEMORY);
    uintptr_t start = place(bytes);
    if (!start) return leave(CUDA_ERROR_OUT_OF_MEMORY);
    Memory *memory = calloc(1, sizeof *memory);
    *memory = (Memory){.next = device_memory, .start = start, .bytes = bytes, .device = device};
    device_memory = memory;
    poison(start, bytes, POISON_FRESH);
    device->used += bytes;
    count.device_allocations++;
    count.total_device_allocations++;
    count.device_bytes += (int64_t)bytes;
    if (count.device_bytes > count.peak_device_bytes) count.peak_device_bytes = count.device_bytes;
    *address = start;
    return leave(CUDA_SUCCESS);
}

CUresult CUDAAPI cuMemFree(CUdeviceptr address) {
    ENTER_TO_FREE();
    CUresult result = unsafe(__func__);
    if (result) return leave(result);
    if (!address) return leave(CUDA_SUCCESS);
    Memory *memory = in_arena(address) ? memory_at(address, 1) : NULL;
    if (!memory || memory->start != address) {
        say("cuMemFree: %#zx is no allocation, or not its beginning", (size_t)address);
        return leave(CUDA_ERROR_INVALID_VALUE);
    }
    memory->device->used -= memory->bytes;
    count.device_allocations--;
    count.device_bytes -= (int64_t)memory->bytes;
    free_later(memory);
    return leave_freed();
}

CUresult CUDAAPI cuMemGetInfo(size_t *unused, size_t *total) {
    ENTER_CONTEXT();
    size_t used = current()->device->used;
    size_t limit = settings.limit < settings.memory ? settings.limit : settings.memory;
    *total = settings.memory;
    *unused = used < limit ? limit - used : 0;
    return leave(CUDA_SUCCESS);
}

CUresult CUDAAPI cuMemGetAddressRange(CUdeviceptr *start, size_t *bytes, CUdeviceptr address) {
    ENTER_CONTEXT();
    Memory *memory = memory_at(address, 1);
    if (!memory) return leave(CUDA_ERROR_NOT_FOUND);
    if (start) *start = memory->start;
    if (bytes) *bytes = memory->bytes;
    return leave(CUDA_SUCCESS);
}

static void add_host_memory(uintptr_t start, size_t bytes, unsigned flags, bool registered) {
    Memory *memory = calloc(1, sizeof *memory);
    *memory = (Memory){
        .next = host_memory, .start = start, .bytes = bytes, .flags = flags, .registered = registered};
    host_memory = memory;
    count.host_allocations++;
    count.total_host_allocations++;
    count.host_bytes += (int64_t)bytes;
}

static CUresult allocate_host(void **pointer, size_t bytes, unsigned flags, const char *function) {
    CUresult result = unsafe(function);
    if (result) return result;
    if (!bytes || flags & ~7u) return CUDA_ERROR_INVALID_VALUE;
    if (bytes > settings.host_limit || (size_t)count.host_bytes > settings.host_limit - bytes)
        return CUDA_ERROR_OUT_OF_MEMORY;
    void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    add_host_memory((uintptr_t)start, bytes, flags, false);
    poison((uintptr_t)start, bytes, POISON_FRESH);
    *pointer = start;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemHostAlloc(void **pointer, size_t bytes, unsigned int flags) {
    ENTER_CONTEXT();
    return leave(allocate_host(pointer, bytes, flags, __func__));
}

CUresult CUDAAPI cuMemAllocHost(void **pointer, size_t bytes) {
    ENTER_CONTEXT();
    return leave(allocate_host(pointer, bytes, 0, __func__));
}

static CUresult free_host(void *pointer, bool registered, const char *function) {
    CUresult result = unsafe(function);
    if (result) return result;
    Memory *memory = in_arena((uintptr_t)pointer) ? NULL : memory_at((uintptr_t)pointer, 1);
    if (!memory || memory->start != (uintptr_t)pointer || memory->registered != registered) {
        say("%s: %p is no such memory", function, pointer);
        return CUDA_ERROR_INVALID_VALUE;
    }
    count.host_allocations--;
    count.host_bytes -= (int64_t)memory->bytes;
    free_later(memory);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemFreeHost(void *pointer) {
    ENTER_TO_FREE();
    CUresult result = free_host(pointer, false, __func__);
    return result ? leave(result) : leave_freed();
}

CUresult CUDAAPI cuMemHostRegister(void *pointer, size_t bytes, unsigned int flags) {
    ENTER_CONTEXT();
    if (!bytes || !pointer) return leave(CUDA_ERROR_INVALID_VALUE);
    add_host_memory((uintptr_t)pointer, bytes,
                    flags & CU_MEMHOSTREGISTER_DEVICEMAP ? CU_MEMHOSTALLOC_DEVICEMAP : 0, true);
    return leave(CUDA_SUCCESS);
}

CUresult CUDAAPI cuMemHostUnregister(void *pointer) {
    ENTER_TO_FREE();
    CUresult result = free_host(pointer, true, __func__);
    return result ? leave(result) : leave_freed();
}

/* One address for both sides, as wherever the driver unifies them. */
CUresult CUDAAPI cuMemHostGetDevicePointer(CUdeviceptr *address, void *pointer, unsigned int flags) {
    ENTER_CONTEXT();
    Memory *memory = in_arena((uintptr_t)pointer) ? NULL : memory_at((uintptr_t)pointer, 1);
    if (flags || !memory || !settings.can_map) return leave(CUDA_ERROR_INVALID_VALUE);
    if (!(memory->flags & CU_MEMHOSTALLOC_DEVICEMAP)) {
        say("cuMemHostGetDevicePointer: the memory was not allocated with DEVICEMAP");
        return leave(CUDA_ERROR_INVALID_VALUE);
    }
    *address = (CUdeviceptr)pointer;
    return leave(CUDA_SUCCESS);
}

CUresult CUDAAPI cuMemHostGetFlags(unsigned int *flags, void *pointer) {
    ENTER_CONTEXT();
    Memory *memory = in_arena((uintptr_t)pointer) ? NULL : memory_at((uintptr_t)pointer, 1);
    if (!memory) return leave(CUDA_ERROR_INVALID_VALUE);
    *flags = memory->flags;
    return leave(CUDA_SUCCESS);
}

/* ---- copying and filling ---- */

/* Enqueue a copy and, where it cannot be left alone, wait for it. */
static CUresult copy(Kind kind, uintptr_t to, uintptr_t from, size_t bytes, Stream *stream, bool synchronous) {
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    if (!bytes) return CUDA_SUCCESS;
    Work work = {.kind = kind, .to = to, .from = from, .bytes = bytes, .range_count = 2};
    work.ranges[0] = (Range){from, bytes, true, false};
    work.ranges[1] = (Range){to, bytes, false, true};
    strcpy(work.label, kind_names[kind]);
    /* What ought to be a device's memory has to be an allocation, or host memory that is mapped. */
    CUresult result = kind == HTOD ? CUDA_SUCCESS : check(from, bytes, kind_names[kind]);
    if (!result && kind != DTOH) result = check(to, bytes, kind_names[kind]);
    if (!result && synchronous) result = unsafe(kind_names[kind]);
    if (result) return result;
    uintptr_t host = kind == HTOD ? from : kind == DTOH ? to : 0;
    bool pageable = host && !in_arena(host) && !memory_at(host, bytes);
    if (pageable) {
        count.pageable_copies++;
        if (kind == HTOD && !stream->capture) {
            work.snapshot = malloc(bytes);
            memcpy(work.snapshot, (void *)from, bytes);
            work.ranges[0] = work.ranges[1];
            work.range_count = 1;
        }
    }
    result = enqueue(stream, &work, synchronous);
    if (result) {
        free(work.snapshot);
        return result;
    }
    bool wait = synchronous || (pageable && kind == DTOH && !stream->capture);
    return wait ? wait_for_stream(stream) : CUDA_SUCCESS;
}

static Kind direction(CUdeviceptr to, CUdeviceptr from) {
    if (in_arena(to)) return in_arena(from) ? DTOD : HTOD;
    return DTOH;
}

CUresult CUDAAPI cuMemcpyHtoD(CUdeviceptr to, const void *from, size_t bytes) {
    ENTER_CONTEXT();
    return leave(copy(HTOD, to, (uintptr_t)from, bytes, find_stream(NULL), true));
}

CUresult CUDAAPI cuMemcpyDtoH(void *to, CUdeviceptr from, size_t bytes) {
    ENTER_CONTEXT();
    return leave(copy(DTOH, (uintptr_t)to, from, bytes, find_stream(NULL), true));
}

CUresult CUDAAPI cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    ENTER_CONTEXT();
    return leave(copy(DTOD, to, from, bytes, find_stream(NULL), true));
}

CUresult CUDAAPI cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    ENTER_CONTEXT();
    return leave(copy(direction(to, from), to, from, bytes, find_stream(NULL), true));
}

CUresult CUDAAPI cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t bytes, CUstream handle) {
    ENTER_CONTEXT();
    return leave(copy(HTOD, to, (uintptr_t)from, bytes, find_stream(handle), false));
}

CUresult CUDAAPI cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t bytes, CUstream handle) {
    ENTER_CONTEXT();
    return leave(copy(DTOH, (uintptr_t)to, from, bytes, find_stream(handle), false));
}

CUresult CUDAAPI cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream handle) {
    ENTER_CONTEXT();
    return leave(copy(DTOD, to, from, bytes, find_stream(handle), false));
}

CUresult CUDAAPI cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream handle) {
    ENTER_CONTEXT();
    return leave(copy(direction(to, from), to, from, bytes, find_stream(handle), false));
}

static CUresult fill(CUdeviceptr to, unsigned value, unsigned width, size_t number, Stream *stream) {
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    if (!number) return CUDA_SUCCESS;
    Work work = {.kind = MEMSET, .to = to, .bytes = number * width, .value = value, .width = width, .range_count = 1};
    work.ranges[0] = (Range){to, work.bytes, false, true};
    strcpy(work.label, "memset");
    CUresult result = check(to, work.bytes, "memset");
    return result ? result : enqueue(stream, &work, false);
}

CUresult CUDAAPI cuMemsetD8(CUdeviceptr to, unsigned char value, size_t number) {
    ENTER_CONTEXT();
    return leave(fill(to, value, 1, number, find_stream(NULL)));
}

CUresult CUDAAPI cuMemsetD16(CUdeviceptr to, unsigned short value, size_t number) {
    ENTER_CONTEXT();
    return leave(fill(to, value, 2, number, find_stream(NULL)));
}

CUresult CUDAAPI cuMemsetD32(CUdeviceptr to, unsigned int value, size_t number) {
    ENTER_CONTEXT();
    return leave(fill(to, value, 4, number, find_stream(NULL)));
}

CUresult CUDAAPI cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t number, CUstream handle) {
    ENTER_CONTEXT();
    return leave(fill(to, value, 1, number, find_stream(handle)));
}

CUresult CUDAAPI cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t number, CUstream handle) {
    ENTER_CONTEXT();
    return leave(fill(to, value, 2, number, find_stream(handle)));
}

CUresult CUDAAPI cuMemsetD32Async(CUdeviceptr to, unsigned int value, size_t number, CUstream handle) {
    ENTER_CONTEXT();
    return leave(fill(to, value, 4, number, find_stream(handle)));
}

/* ---- streams ---- */

static CUresult create_stream(CUstream *handle, unsigned flags) {
    for (int slot = MAX_DEVICES; slot < MAX_STREAMS; slot++) {
        Stream *stream = streams[slot];
        if (stream && (stream->alive || stream->has_thread)) continue;
        /* What was known of a slot's last user stays: its numbers go on. */
        uint32_t past = stream ? stream->enqueued : 0;
        if (!stream) stream = streams[slot] = malloc(sizeof *stream);
        *stream = (Stream){.context = current(), .device = current()->device, .slot = slot, .number = ++streams_made,
                           .flags = flags, .alive = true, .enqueued = past, .done = past};
        count.streams++;
        *handle = (CUstream)stream;
        return CUDA_SUCCESS;
    }
    return CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult CUDAAPI cuStreamCreate(CUstream *handle, unsigned int flags) {
    ENTER_CONTEXT();
    return leave(create_stream(handle, flags));
}

CUresult CUDAAPI cuStreamCreateWithPriority(CUstream *handle, unsigned int flags, int priority) {
    ENTER_CONTEXT();
    (void)priority;
    return leave(create_stream(handle, flags));
}

/* Take a capture out of its streams; its graph is the caller's from then on. */
static Graph *finish(Capture *capture) {
    Graph *graph = capture->graph;
    for (int i = MAX_DEVICES; i < MAX_STREAMS; i++)
        if (streams[i] && streams[i]->capture == capture) streams[i]->capture = NULL;
    Capture **place = &captures;
    while (*place != capture) place = &(*place)->next;
    *place = capture->next;
    free(capture);
    return graph;
}

CUresult CUDAAPI cuStreamDestroy(CUstream handle) {
    ENTER_TO_FREE();
    Stream *stream = find_stream(handle);
    if (!stream || stream == &stream->device->null) return leave(CUDA_ERROR_INVALID_HANDLE);
    if (stream->capture && stream->capture->origin == stream)
        drop_graph(finish(stream->capture));
    else if (stream->capture)
        stream->capture->invalid = true;
    stream->capture = NULL;
    stream->alive = false; /* its thread ends when the queue is empty */
    count.streams--;
    pthread_cond_broadcast(&changed);
    return leave_freed();
}

/* What a stream that is captured cannot be asked. */
static CUresult refuse_captured(Stream *stream, const char *function) {
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    if (stream == &stream->device->null) return refuse_implicit(stream, function);
    if (!stream->capture) return CUDA_SUCCESS;
    say("%s: stream %d is captured", function, stream->number);
    stream->capture->invalid = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

CUresult CUDAAPI cuStreamSynchronize(CUstream handle) {
    ENTER_CONTEXT();
    Stream *stream = find_stream(handle);
    CUresult result = refuse_captured(stream, __func__);
    if (result) return leave(result);
    count.stream_synchronises++;
    return leave(wait_for_stream(stream));
}

CUresult CUDAAPI cuStreamQuery(CUstream handle) {
    ENTER_CONTEXT();
    Stream *stream = find_stream(handle);
    CUresult result = refuse_captured(stream, __func__);
    if (result) return leave(result);
    if (stream->done < stream->enqueued) return leave(CUDA_ERROR_NOT_READY);
    return leave(wait_for_stream(stream));
}

CUresult CUDAAPI cuStreamGetFlags(CUstream handle, unsigned int *flags) {
    ENTER_CONTEXT();
    Stream *stream = find_stream(handle);
    if (stream) *flags = stream->flags;
    return leave(stream ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE);
}

CUresult CUDAAPI cuStreamGetPriority(CUstream handle, int *priority) {
    ENTER_CONTEXT();
    *priority = 0;
    return leave(find_stream(handle) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE);
}

CUresult CUDAAPI cuStreamGetId(CUstream handle, unsigned long long *id) {
    ENTER_CONTEXT();
    Stream *stream = find_stream(handle);
    if (stream) *id = (unsigned long long)stream->number;
    return leave(stream ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE);
}

CUresult CUDAAPI cuStreamGetCtx(CUstream handle, CUcontext *context) {
    ENTER_CONTEXT();
    Stream *stream = find_stream(handle);
    if (stream) *context = (CUcontext)stream->context;
    return leave(stream ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE);
}

CUresult CUDAAPI cuStreamGetDevice(CUstream handle, CUdevice *device) {
    ENTER_CONTEXT();
    Stream *stream = find_stream(handle);
    if (stream) *device = stream->device->ordinal;
    return leave(stream ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE);
}

/* ---- events ---- */

CUresult CUDAAPI cuEventCreate(CUevent *handle, unsigned int flags) {
    ENTER_CONTEXT();
    Event *event = calloc(1, sizeof *event);
    *event = (Event){.next = events, .context = current(), .flags = flags};
    events = event;
    count.events++;
    *handle = (CUevent)event;
    return leave(CUDA_SUCCESS);
}

CUresult CUDAAPI cuEventDestroy(CUevent handle) {
    ENTER_TO_FREE();
    for (Event **place = &events; *place; place = &(*place)->next) {
        Event *event = *place;
        if (event != (Event *)handle) continue;
        *place = event->next;
        drop_moment(event->moment);
        free(event);
        count.events--;
        return leave_freed();
    }
    return leave(CUDA_ERROR_INVALID_HANDLE);
}

static CUresult record(Event *event, Stream *stream) {
    if (!event || !stream) return CUDA_ERROR_INVALID_HANDLE;
    if (event->context != stream->context) {
        say("cuEventRecord: the event and stream %d are of different contexts", stream->number);
        return CUDA_ERROR_INVALID_HANDLE;
    }
    Moment *moment = calloc(1, sizeof *moment);
    moment->references = 1;
    CUresult result = CUDA_SUCCESS;
    if (stream->capture) {
        if (stream->capture->invalid) result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        moment->capture = stream->capture->id;
        moment->nodes = stream->tail;
    } else {
        Work work = {.kind = RECORD, .moment = moment, .label = "record"};
        result = enqueue(stream, &work, false);
    }
    if (result) {
        drop_moment(moment);
        return result;
    }
    drop_moment(event->moment);
    event->moment = moment;
    count.event_records++;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventRecord(CUevent handle, CUstream stream) {
    ENTER_CONTEXT();
    return leave(record(find_event(handle), find_stream(stream)));
}

CUresult CUDAAPI cuEventRecordWithFlags(CUevent handle, CUstream stream, unsigned int flags) {
    ENTER_CONTEXT();
    return leave(flags ? CUDA_ERROR_NOT_SUPPORTED : record(find_event(handle), find_stream(stream)));
}

static bool is_over(const Moment *moment) { return streams[moment->slot]->done >= moment->sequence; }

CUresult CUDAAPI cuEventQuery(CUevent handle) {
    ENTER_CONTEXT();
    Event *event = find_event(handle);
    CUresult result = unsafe(__func__);
    if (result || !event) return leave(result ? result : CUDA_ERROR_INVALID_HANDLE);
    Moment *moment = event->moment;
    if (!moment) return leave(CUDA_SUCCESS);
    if (moment->capture) return leave(CUDA_ERROR_CAPTURED_EVENT);
    if (!is_over(moment)) return leave(CUDA_ERROR_NOT_READY);
    return leave(wait_for(streams[moment->slot], moment->sequence, moment->clock));
}

CUresult CUDAAPI cuEventSynchronize(CUevent handle) {
    ENTER_CONTEXT();
    Event *event = find_event(handle);
    CUresult result = unsafe(__func__);
    if (result || !event) return leave(result ? result : CUDA_ERROR_INVALID_HANDLE);
    Moment *moment = event->moment;
    count.event_synchronises++;
    if (!moment) return leave(CUDA_SUCCESS);
    if (moment->capture) return leave(CUDA_ERROR_CAPTURED_EVENT);
    return leave(wait_for(streams[moment->slot], moment->sequence, moment->clock));
}

CUresult CUDAAPI cuEventElapsedTime(float *milliseconds, CUevent from, CUevent to) {
    ENTER_CONTEXT();
    Event *first = find_event(from), *second = find_event(to);
    if (!first || !second || !first->moment || !second->moment) return leave(CUDA_ERROR_INVALID_HANDLE);
    if ((first->flags | second->flags) & CU_EVENT_DISABLE_TIMING) return leave(CUDA_ERROR_INVALID_HANDLE);
    if (first->moment->capture || second->moment->capture) return leave(CUDA_ERROR_CAPTURED_EVENT);
    if (!is_over(first->moment) || !is_over(second->moment)) return leave(CUDA_ERROR_NOT_READY);
    *milliseconds = (float)((second->moment->seconds - first->moment->seconds) * 1e3);
    return leave(CUDA_SUCCESS);
}

static Capture *capture_of(uint64_t id) {
    for (Capture *capture = captures; capture; capture = capture->next)
        if (capture->id == id) return capture;
    return NULL;
}

CUresult CUDAAPI cuStreamWaitEvent(CUstream handle, CUevent event_handle, unsigned int flags) {
    ENTER_CONTEXT();
    Stream *stream = find_stream(handle);
    Event *event = find_event(event_handle);
    if (!stream || !event) return leave(CUDA_ERROR_INVALID_HANDLE);
    if (flags) return leave(CUDA_ERROR_NOT_SUPPORTED);
    Moment *moment = event->moment;
    if (!moment) return leave(CUDA_SUCCESS);
    if (moment->capture) {
        Capture *capture = capture_of(moment->capture);
        if (!capture) return leave(CUDA_ERROR_CAPTURED_EVENT);
        if (stream->capture && stream->capture != capture) {
            stream->capture->invalid = capture->invalid = true;
            return leave(CUDA_ERROR_STREAM_CAPTURE_MERGE);
        }
        if (capture->invalid) return leave(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        if (!stream->capture) memset(&stream->tail, 0, sizeof stream->tail);
        stream->capture = capture;
        add_nodes(&stream->tail, &moment->nodes);
        return leave(CUDA_SUCCESS);
    }
    if (stream->capture) {
        say("cuStreamWaitEvent: stream %d is captured, and the event was recorded outside of the capture",
            stream->number);
        stream->capture->invalid = true;
        return leave(CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    }
    Work work = {.kind = WAIT, .label = "wait"};
    if (moment->sequence > stream->pending[moment->slot]) stream->pending[moment->slot] = moment->sequence;
    join(stream->clock, moment->clock);
    return leave(enqueue(stream, &work, false));
}

/* ---- graphs ---- */

CUresult CUDAAPI cuStreamBeginCapture(CUstream handle, CUstreamCaptureMode mode) {
    ENTER_CONTEXT();
    Stream *stream = find_stream(handle);
    if (!stream) return leave(CUDA_ERROR_INVALID_HANDLE);
    if (stream == &stream->device->null) return leave(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    if (stream->capture) return leave(CUDA_ERROR_ILLEGAL_STATE);
    Graph *graph = calloc(1, sizeof *graph);
    *graph = (Graph){.next = graphs, .references = 1, .alive = true};
    graphs = graph;
    Capture *capture = calloc(1, sizeof *capture);
    *capture = (Capture){.next = captures, .id = ++captures_made, .graph = graph, .origin = stream,
                         .context = stream->context, .mode = mode, .thread = pthread_self()};
    captures = capture;
    stream->capture = capture;
    memset(&stream->tail, 0, sizeof stream->tail);
    return leave(CUDA_SUCCESS);
}

static bool conflict(const Work *first, const Work *second) {
    for (int i = 0; i < first->range_count; i++)
        for (int j = 0; j < second->range_count; j++) {
            const Range *one = &first->ranges[i], *other = &second->ranges[j];
            if (one->start < other->start + other->bytes && other->start < one->start + one->bytes &&
                (one->writes || other->writes))
                return true;
        }
    return false;
}

static void check_order_within(const Graph *graph) {
    for (int i = 0; i < graph->node_count; i++)
        for (int j = 0; j < i; j++)
            if (!has_node(&graph->nodes[i].before, j) && conflict(&graph->nodes[i].work, &graph->nodes[j].work))
                report_race("%s, node %d of a captured graph, is not ordered after %s, its node %d, which touches the "
                            "same memory",
                            graph->nodes[i].work.label, i, graph->nodes[j].work.label, j);
}

CUresult CUDAAPI cuStreamEndCapture(CUstream handle, CUgraph *graph) {
    ENTER_CONTEXT();
    *graph = NULL;
    Stream *stream = find_stream(handle);
    if (!stream) return leave(CUDA_ERROR_INVALID_HANDLE);
    Capture *capture = stream->capture;
    if (!capture) return leave(CUDA_ERROR_ILLEGAL_STATE);
    if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && !pthread_equal(capture->thread, pthread_self()))
        return leave(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
    CUresult result = capture->invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS;
    if (!result && stream != capture->origin) result = CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
    for (int i = MAX_DEVICES; i < MAX_STREAMS && !result; i++)
        if (streams[i] && streams[i]->capture == capture && !within(&streams[i]->tail, &capture->origin->tail))
            result = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
    Graph *captured = finish(capture);
    if (result) {
        drop_graph(captured);
        return leave(result);
    }
    check_order_within(captured);
    *graph = (CUgraph)captured;
    count.captures++;
    count.graphs++;
    return leave(CUDA_SUCCESS);
}

static CUstreamCaptureStatus capture_status(const Stream *stream) {
    if (!stream->capture) return CU_STREAM_CAPTURE_STATUS_NONE;
    return stream->capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED : CU_STREAM_CAPTURE_STATUS_ACTIVE;
}

CUresult CUDAAPI cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus *status) {
    ENTER_CONTEXT();
    Stream *stream = find_stream(handle);
    if (!stream) return leave(CUDA_ERROR_INVALID_HANDLE);
    if (stream == &stream->device->null && captured_beside(stream)) return leave(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    *status = capture_status(stream);
    return leave(CUDA_SUCCESS);
}

/* Nodes have no handles here, so what the next one would come after cannot be told. */
CUresult CUDAAPI cuStreamGetCaptureInfo(CUstream handle, CUstreamCaptureStatus *status, cuuint64_t *id, CUgraph *graph,
                                        const CUgraphNode **dependencies, const CUgraphEdgeData **edges,
                                        size_t *number) {
    ENTER_CONTEXT();
    Stream *stream = find_stream(handle);
    if (!stream) return leave(CUDA_ERROR_INVALID_HANDLE);
    if (dependencies) *dependencies = NULL;
    if (edges) *edges = NULL;
    if (number) *number = 0;
    *status = capture_status(stream);
    if (*status != CU_STREAM_CAPTURE_STATUS_NONE) {
        if (id) *id = stream->capture->id;
        if (graph) *graph = (CUgraph)stream->capture->graph;
    }
    return leave(CUDA_SUCCESS);
}

CUresult CUDAAPI cuGraphGetNodes(CUgraph handle, CUgraphNode *nodes, size_t *number) {
    ENTER_CONTEXT();
    Graph *graph = find_graph(handle);
    if (!graph) return leave(CUDA_ERROR_INVALID_VALUE);
    if (nodes) return leave(CUDA_ERROR_NOT_SUPPORTED);
    *number = (size_t)graph->node_count;
    return leave(CUDA_SUCCESS);
}

static void hold_object(Held **list, UserObject *object, unsigned times, bool moved) {
    Held *held = malloc(sizeof *held);
    *held = (Held){*list, object, times};
    *list = held;
    if (!moved) object->references += times;
}

static UserObject *find_user_object(CUuserObject handle) {
    for (UserObject *object = user_objects; object; object = object->next)
        if (object == (UserObject *)handle) return object;
    return NULL;
}

CUresult CUDAAPI cuUserObjectCreate(CUuserObject *handle, void *pointer, CUhostFn destroy, unsigned int references,
                                    unsigned int flags) {
    ENTER();
    if (!references || flags != CU_USER_OBJECT_NO_DESTRUCTOR_SYNC) return leave(CUDA_ERROR_INVALID_VALUE);
    UserObject *object = malloc(sizeof *object);
    *object = (UserObject){user_objects, references, pointer, destroy};
    user_objects = object;
    *handle = (CUuserObject)object;
    return leave(CUDA_SUCCESS);
}

CUresult CUDAAPI cuUserObjectRelease(CUuserObject handle, unsigned int times) {
    ENTER();
    UserObject *object = find_user_object(handle);
    if (!object || times > object->references) return leave(CUDA_ERROR_INVALID_VALUE);
    release_object(object, times);
    return leave(CUDA_SUCCESS);
}

CUresult CUDAAPI cuGraphRetainUserObject(CUgraph graph_handle, CUuserObject handle, unsigned int times,
                                         unsigned int flags) {
    ENTER();
    Graph *graph = find_graph(graph_handle);
    UserObject *object = find_user_object(handle);
    if (!graph || !object || !times) return leave(CUDA_ERROR_INVALID_VALUE);
    hold_object(&graph->held, object, times, flags & CU_GRAPH_USER_OBJECT_MOVE);
    return leave(CUDA_SUCCESS);
}

CUresult CUDAAPI cuGraphReleaseUserObject(CUgraph graph_handle, CUuserObject handle, unsigned int times) {
    ENTER();
    Graph *graph = find_graph(graph_handle);
    for (Held **place = graph ? &graph->held : NULL; place && *place; place = &(*place)->next) {
        Held *held = *place;
        if (held->object != (UserObject *)handle || held->times < times) continue;
        release_object(held->object, times);
        held->times -= times;
        if (!held->times) {
            *place = held->next;
            free(held);
        }
        return leave(CUDA_SUCCESS);
    }
    return leave(CUDA_ERROR_INVALID_VALUE);
}

static CUresult instantiate(CUgraphExec *handle, CUgraph graph_handle) {
    Graph *graph = find_graph(graph_handle);
    if (!graph) return CUDA_ERROR_INVALID_VALUE;
    Exec *exec = calloc(1, sizeof *exec);
    *exec = (Exec){.next = execs, .references = 1, .alive = true, .graph = graph};
    graph->references++;
    for (Held *held = graph->held; held; held = held->next) hold_object(&exec->held, held->object, held->times, false);
    execs = exec;
    count.graph_execs++;
    *handle = (CUgraphExec)exec;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphInstantiateWithFlags(CUgraphExec *handle, CUgraph graph, unsigned long long flags) {
    ENTER_CONTEXT();
    (void)flags;
    return leave(instantiate(handle, graph));
}

CUresult CUDAAPI cuGraphInstantiateWithParams(CUgraphExec *handle, CUgraph graph,
                                              CUDA_GRAPH_INSTANTIATE_PARAMS *parameters) {
    ENTER_CONTEXT();
    CUresult result = instantiate(handle, graph);
    parameters->hErrNode_out = NULL;
    parameters->result_out = result ? CUDA_GRAPH_INSTANTIATE_ERROR : CUDA_GRAPH_INSTANTIATE_SUCCESS;
    return leave(result);
}

CUresult CUDAAPI cuGraphUpload(CUgraphExec handle, CUstream stream) {
    ENTER_CONTEXT();
    if (!find_exec(handle)) return leave(CUDA_ERROR_INVALID_VALUE);
    return leave(find_stream(stream) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE);
}

CUresult CUDAAPI cuGraphLaunch(CUgraphExec handle, CUstream stream_handle) {
    ENTER_CONTEXT();
    Exec *exec = find_exec(handle);
    Stream *stream = find_stream(stream_handle);
    if (!exec) return leave(CUDA_ERROR_INVALID_VALUE);
    if (!stream) return leave(CUDA_ERROR_INVALID_HANDLE);
    if (stream->capture) return leave(CUDA_ERROR_NOT_SUPPORTED); /* a graph within a graph */
    /* The addresses are those of the capture; what they were of may have been freed since. */
    for (int i = 0; i < exec->graph->node_count; i++) {
        CUresult result = check_ranges(stream, &exec->graph->nodes[i].work);
        if (result) return leave(result);
    }
    Work work = {.kind = GRAPH, .exec = exec, .label = "graph"};
    CUresult result = enqueue(stream, &work, false);
    if (!result) count.graph_launches++;
    return leave(result);
}

CUresult CUDAAPI cuGraphExecDestroy(CUgraphExec handle) {
    ENTER_TO_FREE();
    Exec *exec = find_exec(handle);
    if (!exec) return leave(CUDA_ERROR_INVALID_VALUE);
    exec->alive = false;
    count.graph_execs--;
    drop_exec(exec);
    return leave_freed();
}

CUresult CUDAAPI cuGraphDestroy(CUgraph handle) {
    ENTER_TO_FREE();
    Graph *graph = find_graph(handle);
    if (!graph) return leave(CUDA_ERROR_INVALID_VALUE);
    graph->alive = false;
    count.graphs--;
    drop_graph(graph);
    return leave_freed();
}

/* ---- finding functions by name ---- */

extern const char *const standin_stubs[]; /* names of the generated functions, which are not handed out */

CUresult CUDAAPI cuGetProcAddress(const char *symbol, void **function, int version, cuuint64_t flags,
                                  CUdriverProcAddressQueryResult *status) {
    (void)version; /* callers are of CUDA 13, whose functions these are */
    (void)flags;
    static const char *const endings[] = {"_v4", "_v3", "_v2", ""};
    /* cuda.h gives this name to another function than the oldest of that name. */
    if (!strcmp(symbol, "cuGraphInstantiate")) symbol = "cuGraphInstantiateWithFlags";
    Dl_info info;
    void *library = dladdr((void *)cuInit, &info) ? dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD) : NULL;
    *function = NULL;
    for (int i = 0; i < 4 && library && !*function; i++) {
        char name[200];
        snprintf(name, sizeof name, "%s%s", symbol, endings[i]);
        bool stub = false;
        for (const char *const *other = standin_stubs; *other && !stub; other++) stub = !strcmp(*other, name);
        if (!stub) *function = dlsym(library, name);
    }
    if (library) dlclose(library);
    if (status) *status = *function ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

/* Called by the stubs for everything that is not here. */
CUresult standin_refuse(const char *function) {
    if (forked) return CUDA_ERROR_NOT_INITIALIZED;
    pthread_mutex_lock(&mutex);
    say("%s: not in the stand-in", function);
    return leave(CUDA_ERROR_NOT_SUPPORTED);
}

/* ---- for the tests ---- */

/* Enqueue a function of the test's, which says what it touches: triples of address, bytes, and 1 to read, 2 to write or
 * 3 for both. It runs on the stream's thread; anything but 0 from it is a launch failure. */
CUresult standin_launch(CUstream handle, int (*function)(uintptr_t), uintptr_t user, const char *label,
                        const uint64_t *ranges, int number) {
    ENTER_CONTEXT();
    Stream *stream = find_stream(handle);
    if (!stream) return leave(CUDA_ERROR_INVALID_HANDLE);
    if (number > MAX_RANGES) return leave(CUDA_ERROR_INVALID_VALUE);
    if (stream->context != current()) {
        say("%s: stream %d is of another context than the current one", label, stream->number);
        return leave(CUDA_ERROR_INVALID_CONTEXT);
    }
    Work work = {.kind = LAUNCH, .callback = function, .user = user, .range_count = number};
    snprintf(work.label, sizeof work.label, "%s", label);
    for (int i = 0; i < number; i++)
        work.ranges[i] = (Range){ranges[3 * i], ranges[3 * i + 1], ranges[3 * i + 2] & 1, ranges[3 * i + 2] & 2};
    return leave(enqueue(stream, &work, false));
}

/* Where a device's bytes can be touched; 0, and a message, where they are none. */
uintptr_t standin_resolve(uintptr_t address, size_t bytes) {
    pthread_mutex_lock(&mutex);
    /* Work that was enqueued before its memory was freed may still use it. */
    bool known = false;
    for (Deferred *entry = deferred; entry && !known; entry = entry->next)
        known = address >= entry->memory->start && address + bytes <= entry->memory->start + entry->memory->bytes;
    known = known || !check(address, bytes, "resolve");
    pthread_mutex_unlock(&mutex);
    return known ? accessible(address) : 0;
}

/* An address that is no memory, for objects that operations use one at a time. */
uintptr_t standin_token(void) {
    pthread_mutex_lock(&mutex);
    uintptr_t token = next_token++;
    pthread_mutex_unlock(&mutex);
    return token;
}

/* Declare that the host reads or writes memory now. */
void standin_host_access(uintptr_t start, size_t bytes, bool writes, const char *label) {
    pthread_mutex_lock(&mutex);
    for (int i = 0; i < access_count; i++) {
        Access *other = &accesses[i];
        if (other->start >= start + bytes || start >= other->end || !(writes || other->writes)) continue;
        if (other->sequence <= host_clock[other->slot]) continue;
        char where[200], there[64];
        describe(where, sizeof where, start > other->start ? start : other->start,
                 start + bytes < other->end ? start + bytes : other->end);
        stream_name(there, sizeof there, other->stream, other->number);
        report_race("%s on the host %s %s, not ordered after %s on %s (its operation %u), which %s it", label,
                    verb(writes), where, other->label, there, other->sequence, verb(other->writes));
    }
    pthread_mutex_unlock(&mutex);
}

/* Hold a stream up, or let it go on; false where it is none. */
bool standin_hold(CUstream handle, bool held) {
    pthread_mutex_lock(&mutex);
    Stream *stream = find_stream(handle);
    if (stream) stream->held = held;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
    return stream;
}

int standin_stream_number(CUstream handle) {
    pthread_mutex_lock(&mutex);
    Stream *stream = find_stream(handle);
    pthread_mutex_unlock(&mutex);
    return stream ? stream->number : -1;
}

void standin_set_delay(uint32_t seed, uint32_t most_microseconds) {
    pthread_mutex_lock(&mutex);
    settings.seed = seed;
    settings.most_microseconds = most_microseconds;
    pthread_mutex_unlock(&mutex);
}

void standin_set_rates(double copy_bytes_per_second, uint32_t launch_microseconds) {
    pthread_mutex_lock(&mutex);
    settings.copy_rate = copy_bytes_per_second;
    settings.launch_microseconds = launch_microseconds;
    pthread_mutex_unlock(&mutex);
}

void standin_set_limits(size_t device_bytes, size_t host_bytes) {
    pthread_mutex_lock(&mutex);
    settings.limit = device_bytes;
    settings.host_limit = host_bytes;
    pthread_mutex_unlock(&mutex);
}

/* Let a function fail so many times, after so many calls of it that do not; false where too many are to fail. */
bool standin_fail_next(const char *function, int code, int after, int times) {
    pthread_mutex_lock(&mutex);
    int i = 0;
    while (i < 16 && failures[i].times) i++;
    if (i < 16) {
        snprintf(failures[i].function, sizeof failures[i].function, "%s", function);
        failures[i].code = (CUresult)code;
        failures[i].after = after;
        failures[i].times = times;
    }
    pthread_mutex_unlock(&mutex);
    return i < 16;
}

const char *standin_counter_name(int index) { return index < COUNTER_COUNT ? counter_names[index] : NULL; }

int standin_thread_depth(void) { return depth; }

void standin_counters(int64_t *values) {
    pthread_mutex_lock(&mutex);
    memcpy(values, &count, sizeof count);
    pthread_mutex_unlock(&mutex);
}

/* Texts of one kind, in turn; NULL after the last. They stay until they are reset. */
const char *standin_race(int index) { return index < race_count ? races[index] : NULL; }
const char *standin_message(int index) { return index < message_count ? messages[index] : NULL; }

/* An entry of the timeline; false after the last. */
bool standin_timing(int index, int *stream, char *kind, double *start, double *end) {
    pthread_mutex_lock(&mutex);
    bool there = index < timing_count;
    if (there) {
        *stream = timings[index].stream;
        strcpy(kind, timings[index].kind);
        *start = timings[index].start;
        *end = timings[index].end;
    }
    pthread_mutex_unlock(&mutex);
    return there;
}

/* Forget what was reported and counted; what is live stays counted. */
void standin_reset(void) {
    pthread_mutex_lock(&mutex);
    while (race_count) free(races[--race_count]);
    while (message_count) free(messages[--message_count]);
    timing_count = 0;
    int64_t bytes = count.device_bytes;
    memset(&count.peak_device_bytes, 0, (size_t)((char *)(&count + 1) - (char *)&count.peak_device_bytes));
    count.peak_device_bytes = bytes;
    pthread_mutex_unlock(&mutex);
}

/* Does something to one rank of an MPI job, at a place that no signal hits for sure. For tests: it is
 * loaded before the libraries of the program (LD_PRELOAD), stands between it and MPI by MPI's own
 * profiling interface, and between it and the clock.
 *
 * FAULT       exit (as if all were well), panic (of the thread that next asks for the time), kill,
 *             nan (in what the rank gives to a sum), drift (in what it gets of a sum)
 * FAULT_RANK  which rank
 * FAULT_AT    sum, barrier or fsync: in such a call; quiet: when MPI was not called for FAULT_MS
 * FAULT_WHEN  a file without which nothing happens
 * FAULT_AFTER so many calls of that kind go well, once the file is there
 */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <mpi.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const char *deed = "", *place = "", *file;
static int left, quiet_ms;
static volatile int has_no_clock, is_in_mpi, is_done;
static volatile long long last_call;

static long long now(void) {
    struct timespec time;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000LL + time.tv_nsec / 1000000;
}

static int is(const char *text, const char *other) { return strcmp(text, other) == 0; }

static void act(void) {
    is_done = 1;
    if (is(deed, "exit")) exit(0);
    if (is(deed, "kill")) raise(SIGKILL);
    if (is(deed, "panic")) has_no_clock = 1;
}

/* Whether it is time for it, in a call of this kind. */
static int comes_here(const char *call) {
    if (is_done || !is(place, call) || (file && access(file, F_OK) != 0)) return 0;
    return left-- <= 0;
}

static void *watch(void *nothing) {
    while (!is_done) {
        usleep(500);
        if (is_in_mpi || now() - last_call < quiet_ms) continue;
        if (access(file, F_OK) == 0) act();
    }
    return nothing;
}

__attribute__((constructor)) static void begin(void) {
    const char *rank = getenv("OMPI_COMM_WORLD_RANK"), *wanted = getenv("FAULT_RANK");
    const char *after = getenv("FAULT_AFTER"), *ms = getenv("FAULT_MS");
    if (!rank || !wanted || !is(rank, wanted)) return;
    deed = getenv("FAULT");
    place = getenv("FAULT_AT");
    file = getenv("FAULT_WHEN");
    left = after ? atoi(after) : 0;
    quiet_ms = ms ? atoi(ms) : 0;
    last_call = now();
    pthread_t thread;
    if (is(place, "quiet")) pthread_create(&thread, 0, watch, 0);
}

#define IN_MPI(call)                                                                               \
    is_in_mpi = 1;                                                                                 \
    int result = call;                                                                             \
    last_call = now();                                                                             \
    is_in_mpi = 0;

int MPI_Allreduce(const void *send, void *receive, int count, MPI_Datatype type, MPI_Op op,
                  MPI_Comm comm) {
    int here = comes_here("sum");
    float *poisoned = 0;
    if (here) act();
    if (here && is(deed, "nan")) {
        poisoned = malloc(count * sizeof(float));
        memcpy(poisoned, send, count * sizeof(float));
        poisoned[0] = NAN;
    }
    IN_MPI(PMPI_Allreduce(poisoned ? poisoned : send, receive, count, type, op, comm));
    if (here && is(deed, "drift")) ((float *)receive)[0] += 1;
    free(poisoned);
    return result;
}

int MPI_Allgather(const void *send, int count, MPI_Datatype type, void *receive, int each,
                  MPI_Datatype other, MPI_Comm comm) {
    IN_MPI(PMPI_Allgather(send, count, type, receive, each, other, comm));
    return result;
}

int MPI_Allgatherv(const void *send, int count, MPI_Datatype type, void *receive,
                   const int *counts, const int *places, MPI_Datatype other, MPI_Comm comm) {
    IN_MPI(PMPI_Allgatherv(send, count, type, receive, counts, places, other, comm));
    return result;
}

int MPI_Barrier(MPI_Comm comm) {
    if (comes_here("barrier")) {
        act();
        /* The others wait here, while this one panics. */
        if (has_no_clock) return 0;
    }
    IN_MPI(PMPI_Barrier(comm));
    return result;
}

int fsync(int descriptor) {
    if (comes_here("fsync")) act();
    return syscall(SYS_fsync, descriptor);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    if (has_no_clock) {
        errno = EINVAL;
        return -1;
    }
    return syscall(SYS_clock_gettime, clock, time);
}

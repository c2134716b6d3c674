/* Stands between a node and the C library, and does to its disk and its calendar what the page of orders says.
 *
 * The page is a file that both map (`mod.rs` names its words). Only what is asked of regular files is touched: sockets and logs
 * that go to pipes are left alone. RocksDB, though linked in, calls the C library for all of this. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

enum { LOADED, SYNC_FAILS, SYNC_DELAY_US, CLOCK_AHEAD_NS, SYNCS, SYNCS_FAILED, NOTED, SYNCS_LATE, WRONG_TIMES, WORDS = 512 };

static volatile uint64_t *page;
static int notes = -1;

static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_clock_gettime)(clockid_t, struct timespec *);

static void find(void) {
    if (!real_fsync) real_fsync = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    if (!real_fdatasync) real_fdatasync = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    if (!real_clock_gettime)
        real_clock_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
}

__attribute__((constructor)) static void load(void) {
    find();
    const char *path = getenv("CARTWHEEL_SHIM");
    if (!path) return;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *mapped = mmap(NULL, WORDS * 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped == MAP_FAILED) return;
    page = mapped;
    const char *list = getenv("CARTWHEEL_SHIM_NOTES");
    if (list) notes = open(list, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    __atomic_store_n(&page[LOADED], (uint64_t)getpid(), __ATOMIC_SEQ_CST);
}

static uint64_t word(int at) { return __atomic_load_n(&page[at], __ATOMIC_RELAXED); }

/* How much of a file is safe now: whoever cuts the power later takes the rest away. Renaming keeps the inode,
 * and whoever gets the inode of a file that is gone was born later. */
static void note(const struct statx *file) {
    if (notes < 0) return;
    char line[128];
    long long born = file->stx_mask & STATX_BTIME ? file->stx_btime.tv_sec * 1000000000LL + file->stx_btime.tv_nsec : 0;
    int length = snprintf(line, sizeof line, "%llu %lld %llu\n", (unsigned long long)file->stx_ino, born, (unsigned long long)file->stx_size);
    if (length > 0 && write(notes, line, (size_t)length) == length) __atomic_add_fetch(&page[NOTED], 1, __ATOMIC_RELAXED);
}

static int order(int fd, int (*real)(int)) {
    struct statx file;
    if (!page || statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &file) != 0 || !S_ISREG(file.stx_mode)) return real(fd);
    __atomic_add_fetch(&page[SYNCS], 1, __ATOMIC_RELAXED);
    uint64_t delay = word(SYNC_DELAY_US);
    if (delay) {
        struct timespec pause = {(time_t)(delay / 1000000), (long)(delay % 1000000 * 1000)};
        nanosleep(&pause, NULL);
        __atomic_add_fetch(&page[SYNCS_LATE], 1, __ATOMIC_RELAXED);
    }
    uint64_t fails = word(SYNC_FAILS);
    while (fails) {
        uint64_t left = fails == UINT64_MAX ? fails : fails - 1;
        if (__atomic_compare_exchange_n(&page[SYNC_FAILS], &fails, left, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
            __atomic_add_fetch(&page[SYNCS_FAILED], 1, __ATOMIC_RELAXED);
            errno = EIO;
            return -1;
        }
    }
    int done = real(fd);
    if (done == 0) note(&file);
    return done;
}

int fsync(int fd) {
    find();
    return order(fd, real_fsync);
}

int fdatasync(int fd) {
    find();
    return order(fd, real_fdatasync);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    find();
    int done = real_clock_gettime(clock, now);
    if (done != 0 || !page || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)) return done;
    int64_t ahead = (int64_t)word(CLOCK_AHEAD_NS);
    if (ahead) {
        int64_t nanos = (int64_t)now->tv_sec * 1000000000 + now->tv_nsec + ahead;
        now->tv_sec = nanos / 1000000000;
        now->tv_nsec = nanos % 1000000000;
        __atomic_add_fetch(&page[WRONG_TIMES], 1, __ATOMIC_RELAXED);
    }
    return done;
}

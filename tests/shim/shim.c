/* A disk that fails, for tests: loaded in front of the C library of one daemon (LD_PRELOAD), it stands between the daemon and the
   files of one directory. It counts what changes them, kills the process before or half way through one such call, fails calls,
   plays a full disk, and writes down every change, so that a test can make the files a loss of power would have left.

   SHIM_DIR      the directory; what is below "worktrees" is left alone
   SHIM_CONTROL  a file with the numbers of `struct control`, which the test reads and writes at any time
   SHIM_JOURNAL  where changes are written down; not when empty */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

struct control {
    uint64_t calls;      /* changes asked for so far */
    uint64_t kill_at;    /* the process dies at this one; 0: never */
    uint64_t torn;       /* 1: half way through it, when it writes */
    uint64_t fail_at;    /* this one fails; 0: none */
    uint64_t fail_every; /* every so many fail; 0: none */
    uint64_t error;      /* with this error */
    uint64_t full;       /* no room for: 1 the ledger, 2 what is below "logs", 4 the rest */
    uint64_t failed;     /* calls that were made to fail */
};

#define FILES_MAX 65536
#define KIND_LEDGER 1
#define KIND_LOGS 2
#define KIND_REST 4

static volatile struct control *control;
static char dir[PATH_MAX];
static size_t dir_length;
static int journal = -1;
static char *paths[FILES_MAX];
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void begin(void) {
    const char *where = getenv("SHIM_DIR"), *numbers = getenv("SHIM_CONTROL"), *log = getenv("SHIM_JOURNAL");
    if (where && numbers) {
        int file = (int)syscall(SYS_openat, AT_FDCWD, numbers, O_RDWR | O_CLOEXEC, 0);
        void *map = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (file < 0 || map == MAP_FAILED) abort();
        syscall(SYS_close, file);
        control = map;
        dir_length = (size_t)snprintf(dir, sizeof dir, "%s/", where);
        if (log && *log) journal = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    }
    unsetenv("LD_PRELOAD");
    unsetenv("SHIM_DIR");
    unsetenv("SHIM_CONTROL");
    unsetenv("SHIM_JOURNAL");
}

static int is_ours(const char *path) {
    if (!control || !path) return 0;
    size_t length = strlen(path);
    if (length + 1 == dir_length) return strncmp(path, dir, length) == 0;
    return strncmp(path, dir, dir_length) == 0 && strncmp(path + dir_length, "worktrees", 9) != 0;
}

static const char *path_of(int file) {
    return file >= 0 && file < FILES_MAX ? paths[file] : NULL;
}

static void remember(int file, const char *path) {
    if (file < 0 || file >= FILES_MAX) return;
    char *now = path ? strdup(path) : NULL;
    free(paths[file]);
    paths[file] = now;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static uint64_t kind_of(const char *path) {
    const char *inside = path + dir_length;
    if (strncmp(inside, "ledger.", 7) == 0) return KIND_LEDGER;
    if (strncmp(inside, "logs/", 5) == 0) return KIND_LOGS;
    return KIND_REST;
}

/* What becomes of a change: 0 it is made, 1 it fails (errno says how), 2 the process dies half way through it. */
static int fate(const char *path, int needs_room, int can_tear) {
    uint64_t call = ++control->calls;
    if (control->kill_at && call == control->kill_at) {
        if (can_tear && control->torn) return 2;
        die();
    }
    int fails = (control->fail_at && call == control->fail_at) || (control->fail_every && call % control->fail_every == 0);
    int full = needs_room && (control->full & kind_of(path));
    if (!fails && !full) return 0;
    control->failed++;
    errno = full ? ENOSPC : (int)control->error;
    return 1;
}

static void note_bytes(const void *bytes, size_t length) {
    while (length > 0) {
        ssize_t done = syscall(SYS_write, journal, bytes, length);
        if (done <= 0) abort();
        bytes = (const char *)bytes + done;
        length -= (size_t)done;
    }
}

/* One line of what it is, then its bytes. C made, W written, T cut, S synced, R renamed, U removed. What SQLite shares between
   processes (-shm) is no part of what is on disk. */
static void note(char what, const char *path, const char *to, uint64_t at, const void *bytes, uint64_t length) {
    size_t end = strlen(path);
    if (journal < 0 || (end > 4 && strcmp(path + end - 4, "-shm") == 0)) return;
    char line[2 * PATH_MAX + 64];
    int chars = snprintf(line, sizeof line, "%c %llu %llu %s\t%s\n", what, (unsigned long long)at, (unsigned long long)length,
                         end + 1 == dir_length ? "" : path + dir_length, to ? to + dir_length : "");
    note_bytes(line, (size_t)chars);
    if (bytes) note_bytes(bytes, length);
}

static int open_one(int at, const char *path, int flags, mode_t mode) {
    int changes = is_ours(path) && (flags & (O_CREAT | O_TRUNC)) != 0;
    if (!is_ours(path)) {
        int file = (int)syscall(SYS_openat, at, path, flags, mode);
        if (control && file >= 0) {
            pthread_mutex_lock(&turn);
            remember(file, NULL);
            pthread_mutex_unlock(&turn);
        }
        return file;
    }
    pthread_mutex_lock(&turn);
    struct stat there;
    int makes = changes && (syscall(SYS_newfstatat, at, path, &there, 0) != 0 || ((flags & O_TRUNC) && there.st_size > 0));
    int file = -1;
    if (!makes || fate(path, 1, 0) == 0) {
        file = (int)syscall(SYS_openat, at, path, flags, mode);
        int error = errno;
        if (file >= 0) {
            remember(file, path);
            if (makes) note('C', path, NULL, 0, NULL, 0);
        }
        errno = error;
    }
    pthread_mutex_unlock(&turn);
    return file;
}

#define OPEN(name, ...) \
    { \
        mode_t mode = 0; \
        if (flags & O_CREAT) { \
            va_list rest; \
            va_start(rest, flags); \
            mode = va_arg(rest, mode_t); \
            va_end(rest); \
        } \
        return open_one(__VA_ARGS__, mode); \
    }
int open(const char *path, int flags, ...) OPEN(open, AT_FDCWD, path, flags)
int open64(const char *path, int flags, ...) OPEN(open64, AT_FDCWD, path, flags | O_LARGEFILE)
int openat(int at, const char *path, int flags, ...) OPEN(openat, at, path, flags)
int openat64(int at, const char *path, int flags, ...) OPEN(openat64, at, path, flags | O_LARGEFILE)

int close(int file) {
    if (path_of(file)) {
        pthread_mutex_lock(&turn);
        remember(file, NULL);
        pthread_mutex_unlock(&turn);
    }
    return (int)syscall(SYS_close, file);
}

/* `at` is -1 for where the file stands. */
static ssize_t write_at(int file, const void *bytes, size_t length, off_t at) {
    const char *path = path_of(file);
    if (!path || length == 0) {
        return at < 0 ? syscall(SYS_write, file, bytes, length) : syscall(SYS_pwrite64, file, bytes, length, at);
    }
    pthread_mutex_lock(&turn);
    off_t place = at;
    if (at < 0) place = fcntl(file, F_GETFL) & O_APPEND ? lseek(file, 0, SEEK_END) : lseek(file, 0, SEEK_CUR);
    int fate_is = fate(path, 1, 1);
    ssize_t done = -1;
    if (fate_is != 1) {
        if (fate_is == 2) length = length / 2;
        done = at < 0 ? syscall(SYS_write, file, bytes, length) : syscall(SYS_pwrite64, file, bytes, length, at);
        int error = errno;
        if (done > 0) note('W', path, NULL, (uint64_t)place, bytes, (uint64_t)done);
        if (fate_is == 2) die();
        errno = error;
    }
    pthread_mutex_unlock(&turn);
    return done;
}

ssize_t write(int file, const void *bytes, size_t length) { return write_at(file, bytes, length, -1); }
ssize_t pwrite(int file, const void *bytes, size_t length, off_t at) { return write_at(file, bytes, length, at); }
ssize_t pwrite64(int file, const void *bytes, size_t length, off64_t at) { return write_at(file, bytes, length, at); }

ssize_t writev(int file, const struct iovec *parts, int count) {
    if (!path_of(file) || count == 0) return syscall(SYS_writev, file, parts, count);
    /* Fewer bytes than were asked for is an answer everybody has to understand. */
    for (int part = 0; part < count; part++)
        if (parts[part].iov_len > 0) return write_at(file, parts[part].iov_base, parts[part].iov_len, -1);
    return 0;
}

static int sync_one(int file, long number) {
    const char *path = path_of(file);
    if (!path) return (int)syscall(number, file);
    pthread_mutex_lock(&turn);
    int done = -1;
    if (fate(path, 0, 0) == 0) {
        done = (int)syscall(number, file);
        if (done == 0) note('S', path, NULL, 0, NULL, 0);
    }
    pthread_mutex_unlock(&turn);
    return done;
}
int fsync(int file) { return sync_one(file, SYS_fsync); }
int fdatasync(int file) { return sync_one(file, SYS_fdatasync); }

static int cut(int file, off_t length) {
    const char *path = path_of(file);
    if (!path) return (int)syscall(SYS_ftruncate, file, length);
    pthread_mutex_lock(&turn);
    struct stat there;
    int grows = fstat(file, &there) == 0 && there.st_size < length;
    int done = -1;
    if (fate(path, grows, 0) == 0) {
        done = (int)syscall(SYS_ftruncate, file, length);
        if (done == 0) note('T', path, NULL, (uint64_t)length, NULL, 0);
    }
    pthread_mutex_unlock(&turn);
    return done;
}
int ftruncate(int file, off_t length) { return cut(file, length); }
int ftruncate64(int file, off64_t length) { return cut(file, length); }

int rename(const char *from, const char *to) {
    if (!is_ours(from)) return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    pthread_mutex_lock(&turn);
    int done = -1;
    if (fate(from, 0, 0) == 0) {
        done = (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
        if (done == 0) {
            note('R', from, to, 0, NULL, 0);
            for (int file = 0; file < FILES_MAX; file++)
                if (paths[file] && strcmp(paths[file], from) == 0) remember(file, to);
        }
    }
    pthread_mutex_unlock(&turn);
    return done;
}

int unlink(const char *path) {
    if (!is_ours(path)) return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    pthread_mutex_lock(&turn);
    int done = -1;
    struct stat there;
    /* What is not there is no change. */
    if (syscall(SYS_newfstatat, AT_FDCWD, path, &there, 0) != 0) {
        done = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    } else if (fate(path, 0, 0) == 0) {
        done = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
        if (done == 0) note('U', path, NULL, 0, NULL, 0);
    }
    pthread_mutex_unlock(&turn);
    return done;
}

/* A layer between a process and its disk, for tests: put in by LD_PRELOAD, it concerns the files below one folder.

   DISK_FOLDER   the folder
   DISK_FULL     while a file of this name is there, writes fail as on a full disk
   DISK_JOURNAL  where it tells what happened, a line each, so that a test can take back what was never synced:
                   N PATH          a new file            W PATH OFFSET BYTES  a write begins
                   T PATH LENGTH   a length is set       R PATH               a name is given to a file
                   B PATH          a sync begins         S PATH               that sync has succeeded
                   U PATH          a name is removed
                 R is preceded by O PATH, the name before. Paths have no spaces.

   A write is told before it is made and a sync after it has succeeded: a kill between the two makes the test take back
   too much, never too little, of what the process may have answered for. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static const char *folder, *full;
static int journal = -1;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("DISK_JOURNAL");
    folder = getenv("DISK_FOLDER");
    full = getenv("DISK_FULL");
    if (path) journal = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static int below(const char *path) {
    return folder && path && strncmp(path, folder, strlen(folder)) == 0;
}

static int named(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return below(path);
}

static void tell(const char *format, ...) {
    char line[PATH_MAX + 64];
    va_list words;
    if (journal < 0) return;
    va_start(words, format);
    int length = vsnprintf(line, sizeof line, format, words);
    va_end(words);
    if (length <= 0 || length >= (int)sizeof line || syscall(SYS_write, journal, line, (size_t)length) != length) abort();
}

static int is_full(void) {
    if (!full || access(full, F_OK) != 0) return 0;
    errno = ENOSPC;
    return 1;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static ssize_t write_at(int fd, const void *bytes, size_t count, off64_t offset) {
    static ssize_t (*next)(int, const void *, size_t, off64_t);
    char path[PATH_MAX];
    if (!next) next = NEXT(pwrite64);
    if (named(fd, path)) {
        if (is_full()) return -1;
        tell("W %s %lld %zu\n", path, (long long)offset, count);
    }
    return next(fd, bytes, count, offset);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) { return write_at(fd, bytes, count, offset); }
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) { return write_at(fd, bytes, count, offset); }

ssize_t write(int fd, const void *bytes, size_t count) {
    static ssize_t (*next)(int, const void *, size_t);
    char path[PATH_MAX];
    if (!next) next = NEXT(write);
    if (fd > 2 && named(fd, path)) {
        if (is_full()) return -1;
        tell("W %s %lld %zu\n", path, (long long)lseek64(fd, 0, SEEK_CUR), count);
    }
    return next(fd, bytes, count);
}

int ftruncate64(int fd, off64_t length) {
    static int (*next)(int, off64_t);
    char path[PATH_MAX];
    if (!next) next = NEXT(ftruncate64);
    if (named(fd, path)) tell("T %s %lld\n", path, (long long)length);
    return next(fd, length);
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

static int synced(int fd, int (*next)(int)) {
    char path[PATH_MAX];
    int concerned = named(fd, path);
    if (concerned) tell("B %s\n", path);
    int result = next(fd);
    if (concerned && result == 0) tell("S %s\n", path);
    return result;
}

int fdatasync(int fd) {
    static int (*next)(int);
    if (!next) next = NEXT(fdatasync);
    return synced(fd, next);
}

int fsync(int fd) {
    static int (*next)(int);
    if (!next) next = NEXT(fsync);
    return synced(fd, next);
}

int open64(const char *path, int flags, ...) {
    static int (*next)(const char *, int, ...);
    struct stat before;
    va_list words;
    if (!next) next = NEXT(open64);
    va_start(words, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(words, mode_t) : 0;
    va_end(words);
    if (below(path) && (flags & O_CREAT) && stat(path, &before) != 0) tell("N %s\n", path);
    return next(path, flags, mode);
}

int rename(const char *from, const char *to) {
    static int (*next)(const char *, const char *);
    if (!next) next = NEXT(rename);
    if (below(from)) tell("O %s\nR %s\n", from, to);
    return next(from, to);
}

int unlink(const char *path) {
    static int (*next)(const char *);
    if (!next) next = NEXT(unlink);
    if (below(path)) tell("U %s\n", path);
    return next(path);
}

/* A disk in trouble: what the kernel would answer, said to one process about one database.

   Preloaded (ld.so(8), LD_PRELOAD) into a server of kipuka with SQLite, or into PostgreSQL. The file named by TROUBLE_CONTROL has two numbers: the
   errno that writes to the SQLite database fail with (0: none), and the milliseconds that each sync of a write-ahead log takes. Without the file there
   is no trouble. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static int ends_with(const char *text, const char *end) {
    size_t length = strlen(text), wanted = strlen(end);
    return length >= wanted && strcmp(text + length - wanted, end) == 0;
}

static int is_log(const char *path) { return ends_with(path, "/kipuka.db-wal"); }

static int is_log_of_postgresql(const char *path) { return strstr(path, "/pg_wal/") != NULL; }

static int is_database(const char *path) { return ends_with(path, "/kipuka.db") || is_log(path); }

static int path_of(int file, char *path, size_t size) {
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", file);
    ssize_t length = readlink(name, path, size - 1);
    path[length < 0 ? 0 : length] = 0;
    return length > 0;
}

/* By bare system calls: open and read are taken over below. */
static void trouble(int *error, int *milliseconds) {
    char text[64] = "";
    *error = *milliseconds = 0;
    int before = errno;
    const char *name = getenv("TROUBLE_CONTROL");
    long file = name ? syscall(SYS_openat, AT_FDCWD, name, O_RDONLY | O_CLOEXEC, 0) : -1;
    if (file >= 0) {
        if (syscall(SYS_read, file, text, sizeof text - 1) > 0) sscanf(text, "%d %d", error, milliseconds);
        syscall(SYS_close, file);
    }
    errno = before;
}

static int refused(int file) {
    char path[4096];
    int error, milliseconds;
    trouble(&error, &milliseconds);
    if (!error || !path_of(file, path, sizeof path) || !is_database(path)) return 0;
    errno = error;
    return 1;
}

static int refused_path(const char *path, int flags) {
    int error, milliseconds;
    if ((flags & O_ACCMODE) == O_RDONLY || !(is_database(path) || ends_with(path, "/kipuka.db-shm"))) return 0;
    trouble(&error, &milliseconds);
    if (error != EROFS) return 0;
    errno = error;
    return 1;
}

static void delay(int file) {
    char path[4096];
    int error, milliseconds;
    trouble(&error, &milliseconds);
    if (!milliseconds || !path_of(file, path, sizeof path) || !(is_log(path) || is_log_of_postgresql(path))) return;
    struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
    while (nanosleep(&left, &left) && errno == EINTR) {
    }
}

#define FIND(name)                                                                     \
    if (!real) real = dlsym(RTLD_NEXT, name)

#define WRITE_AT(name, offset_type)                                                    \
    ssize_t name(int file, const void *data, size_t size, offset_type at) {            \
        static ssize_t (*real)(int, const void *, size_t, offset_type);                \
        FIND(#name);                                                                   \
        return refused(file) ? -1 : real(file, data, size, at);                        \
    }
WRITE_AT(pwrite, off_t)
WRITE_AT(pwrite64, off64_t)

ssize_t write(int file, const void *data, size_t size) {
    static ssize_t (*real)(int, const void *, size_t);
    FIND("write");
    return refused(file) ? -1 : real(file, data, size);
}

#define TRUNCATE(name, offset_type)                                                    \
    int name(int file, offset_type size) {                                             \
        static int (*real)(int, offset_type);                                          \
        FIND(#name);                                                                   \
        return refused(file) ? -1 : real(file, size);                                  \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define SYNC(name)                                                                     \
    int name(int file) {                                                               \
        static int (*real)(int);                                                       \
        FIND(#name);                                                                   \
        delay(file);                                                                   \
        return refused(file) ? -1 : real(file);                                        \
    }
SYNC(fsync)
SYNC(fdatasync)

#define OPEN(name)                                                                     \
    int name(const char *path, int flags, ...) {                                       \
        static int (*real)(const char *, int, ...);                                    \
        va_list more;                                                                  \
        va_start(more, flags);                                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;        \
        va_end(more);                                                                  \
        FIND(#name);                                                                   \
        return refused_path(path, flags) ? -1 : real(path, flags, mode);               \
    }
OPEN(open)
OPEN(open64)

// The wall clock of a process, which a test sets: it is ahead of the real one by the seconds in a file.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    const char *name = getenv("HELD_CLOCK");
    if (result == 0 && clock == CLOCK_REALTIME && name) {
        char ahead[32] = {0};
        int file = open(name, O_RDONLY);
        if (file >= 0) {
            if (read(file, ahead, sizeof ahead - 1) > 0)
                now->tv_sec += atoll(ahead);
            close(file);
        }
    }
    return result;
}

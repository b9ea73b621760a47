#define _GNU_SOURCE
#include "CSpawn.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <unistd.h>

static int add_descriptors(posix_spawn_file_actions_t *actions, int log, int ready) {
    int error = posix_spawn_file_actions_addopen(actions, 0, "/dev/null", O_RDONLY, 0);
    if (!error)
        error = posix_spawn_file_actions_adddup2(actions, ready, CSPAWN_READY_DESCRIPTOR);
    if (!error && log >= 0)
        error = posix_spawn_file_actions_adddup2(actions, log, 1);
    if (!error && log < 0)
        error = posix_spawn_file_actions_addopen(actions, 1, "/dev/null", O_WRONLY, 0);
    if (!error)
        error = posix_spawn_file_actions_adddup2(actions, 1, 2);
    if (!error)
        error = posix_spawn_file_actions_addclosefrom_np(actions, CSPAWN_READY_DESCRIPTOR + 1);
    if (!error)
        error = posix_spawn_file_actions_addchdir_np(actions, "/");
    return error;
}

// Signals as a fresh program expects them, whatever this one ignores or blocks.
static int set_attributes(posix_spawnattr_t *attributes) {
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    sigdelset(&all, SIGKILL);
    sigdelset(&all, SIGSTOP);
    int error = posix_spawnattr_setsigmask(attributes, &none);
    if (!error)
        error = posix_spawnattr_setsigdefault(attributes, &all);
    if (!error)
        error = posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK |
                                                         POSIX_SPAWN_SETSIGDEF);
    return error;
}

int cspawn_server(pid_t *process, const char *path, char *const arguments[],
                  char *const environment[], int log, int ready) {
    // Descriptors 0 to 3 are assigned one after the other: a source among them would be lost.
    int log_copy = log < 0 ? -1 : fcntl(log, F_DUPFD_CLOEXEC, 16);
    int ready_copy = fcntl(ready, F_DUPFD_CLOEXEC, 16);
    if (ready_copy < 0 || (log >= 0 && log_copy < 0)) {
        int error = errno;
        if (ready_copy >= 0)
            close(ready_copy);
        if (log_copy >= 0)
            close(log_copy);
        return error;
    }
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    int error = posix_spawn_file_actions_init(&actions);
    if (!error) {
        error = posix_spawnattr_init(&attributes);
        if (!error) {
            error = add_descriptors(&actions, log_copy, ready_copy);
            if (!error)
                error = set_attributes(&attributes);
            if (!error)
                error = posix_spawnp(process, path, &actions, &attributes, arguments, environment);
            posix_spawnattr_destroy(&attributes);
        }
        posix_spawn_file_actions_destroy(&actions);
    }
    close(ready_copy);
    if (log_copy >= 0)
        close(log_copy);
    return error;
}

int cspawn_pipe(int ends[2]) {
    return pipe2(ends, O_CLOEXEC) == 0 ? 0 : errno;
}

int cspawn_channel(int ends[2]) {
    return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0 ? 0 : errno;
}

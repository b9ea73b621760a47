#ifndef UBLK_CAS_CSPAWN_H
#define UBLK_CAS_CSPAWN_H
// Starting a server: posix_spawn's extensions are hidden from Swift's view of the C library.
#include <sys/types.h>

/// The descriptor on which a started server finds the writing end of its readiness pipe.
enum { CSPAWN_READY_DESCRIPTOR = 3 };

/// Starts `path` (searched in PATH where it has no slash) in a session of its own, in the root
/// directory, with /dev/null to read, `log` (or /dev/null, where negative) to write to, `ready` as
/// descriptor 3, and nothing else open. Returns 0 or an error number.
int cspawn_server(pid_t *process, const char *path, char *const arguments[],
                  char *const environment[], int log, int ready);

/// A pipe that no started program inherits. Returns 0 or an error number.
int cspawn_pipe(int ends[2]);

/// The same, for both directions.
int cspawn_channel(int ends[2]);
#endif

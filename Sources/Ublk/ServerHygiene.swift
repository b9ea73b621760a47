import CLinux
import Glibc

/// What every process does that serves a block device, before it opens the first one.
///
/// A server that waits for memory which can only be freed by writing to its own device stops for
/// ever; one that dies takes its device away from a mounted filesystem.
public enum ServerHygiene {
    /// Does all of it; returns a sentence for each thing that was refused. None is fatal: a server
    /// without it works until the day memory runs out.
    public static func apply() -> [String] {
        var refusals: [String] = []
        note(&refusals, ucas_become_io_flusher(), "marking this process as one that writes back")
        note(&refusals, OwnMounts.make(), "making a mount namespace of its own")
        note(&refusals, ucas_lock_memory(), "locking this process's memory")
        note(&refusals, protectFromOutOfMemory(), "protecting this process from the OOM killer")
        return refusals
    }

    private static func note(_ refusals: inout [String], _ result: Int32, _ what: String) {
        guard result < 0 else { return }
        refusals.append("\(what) was refused: \(String(cString: strerror(-result)))")
    }

    private static func protectFromOutOfMemory() -> Int32 {
        let descriptor = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return -errno }
        defer { close(descriptor) }
        let text: StaticString = "-1000"
        return write(descriptor, text.utf8Start, text.utf8CodeUnitCount) < 0 ? -errno : 0
    }
}

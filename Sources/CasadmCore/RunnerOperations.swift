import ControlClient
import ControlProtocol

/// Requests that last as long as there is dirty data.
extension Runner {
    func flush(_ cache: UInt16, _ core: UInt16?) async throws(Failure) -> Answer {
        let status: OperationStatus
        do {
            let connection = try CacheConnection(cacheID: cache, in: session.runDirectory)
            let name = core == nil ? "Flushing cache" : "Flushing core"
            status = try await watch(connection, name) { () async throws(ControlError) in
                try await connection.flush(core: core)
            }
        } catch {
            throw failure(error)
        }
        return try answer(
            status, attempt: [],
            interrupted:
                "You have interrupted flushing of cache dirty data. CAS continues to operate",
            "normally and dirty data that remains on cache device stays there until it is "
                + "flushed.")
    }

    func stop(_ cache: UInt16, _ flush: Bool) async throws(Failure) -> Answer {
        let attempt = "Error while stopping cache \(cache)"
        if let unserved = runningCaches.unserved(cache) {
            return try stopUnserved(unserved, flush, attempt)
        }
        let status: OperationStatus
        do {
            let connection = try CacheConnection(cacheID: cache, in: session.runDirectory)
            let mounts = Mounts.current()
            let mounted = try await connection.snapshot().cores.flatMap(mounts.lines(of:))
            guard mounted.isEmpty else {
                throw Self.mountedFailure(
                    "Can't stop cache instance \(cache) due to mounted devices:", mounted)
            }
            status = try await watch(connection, "Stopping cache") {
                () async throws(ControlError) in
                try await connection.stop(flush: flush)
            }
        } catch {
            throw failure(error, after: attempt)
        }
        var answer = try answer(
            status, attempt: [attempt],
            interrupted:
                "You have interrupted stopping of cache \(cache). CAS continues",
            "to operate normally. If you want to stop cache without fully",
            "flushing dirty data, use '-n' option.")
        await untilGone(cache)
        answer.lines = ["Successfully stopped cache \(cache)"]
        return answer
    }

    /// Nobody is there who could clean anything: only the exported devices can be ended.
    private func stopUnserved(
        _ unserved: RunningCaches.Unserved, _ flush: Bool, _ attempt: String
    ) throws(Failure) -> Answer {
        let (id, device) = (unserved.record.id, unserved.record.device)
        let load = "'casadm --start-cache --load --cache-device \(device)'"
        guard !unserved.isRestarting else {
            throw Failure(
                attempt, "The server of cache \(id) is being started again. Try again in a moment.")
        }
        guard !flush else {
            throw Failure(
                attempt,
                "Cache \(id) has no server that could flush its dirty data. Start it again with "
                    + "\(load), or end its exported devices with '--no-data-flush'.")
        }
        let readiness = try ServerStart(session: session, program: serverProgram)
            .run(arguments: ["withdraw", "--cache-device", device])
        guard readiness.ok else {
            throw Failure(attempt, readiness.message ?? "casd does not say why.")
        }
        return Answer(
            lines: ["Successfully stopped cache \(id)"],
            warnings: [
                "WARNING: Dirty data may be left that only this machine's memory describes, until "
                    + "its restart. \(load) goes on with it."
            ])
    }

    func removeCore(
        _ cache: UInt16, _ core: UInt16, _ flush: Bool
    ) async throws(Failure) -> Answer {
        let attempt = "Error while removing core device \(core) from cache instance \(cache)"
        let status: OperationStatus
        do {
            let connection = try CacheConnection(cacheID: cache, in: session.runDirectory)
            let mounts = Mounts.current()
            let mounted = try await connection.snapshot().cores.filter { $0.id == core }
                .flatMap(mounts.lines(of:))
            guard mounted.isEmpty else {
                throw Self.mountedFailure(
                    "Can't remove core \(core) from cache \(cache) due to mounted devices:",
                    mounted)
            }
            status = try await watch(connection, "Removing core") {
                () async throws(ControlError) in
                try await connection.removeCore(core, flush: flush)
            }
        } catch ControlError.refused(let body) where body.code == ErrorBody.Code.coreInactive {
            throw Self.inactiveCore
        } catch {
            throw failure(error, after: attempt)
        }
        if status.error?.code == ErrorBody.Code.coreInactive { throw Self.inactiveCore }
        return try answer(
            status, attempt: [attempt],
            interrupted:
                "You have interrupted removal of core. CAS continues to operate normally.")
    }

    func setMode(
        _ cache: UInt16, _ mode: CacheMode, _ flush: Bool?
    ) async throws(Failure) -> Answer {
        let connection: CacheConnection
        let current: CacheMode
        do {
            connection = try CacheConnection(cacheID: cache, in: session.runDirectory)
            current = try await connection.snapshot().mode
        } catch {
            throw failure(error, after: "Error while retrieving cache properties.")
        }
        let leavesLazyWrite = current.isLazyWrite && !mode.isLazyWrite
        if leavesLazyWrite { try announceLeaving(current, for: mode, flush) }
        let status: OperationStatus
        let attempt = "Error while setting cache state for cache \(cache)"
        do {
            status = try await watch(connection, "Setting mode") { () async throws(ControlError) in
                try await connection.setMode(mode, flush: leavesLazyWrite ? flush : false)
            }
        } catch {
            throw failure(error, after: attempt)
        }
        return try answer(
            status, attempt: [attempt],
            interrupted:
                "Interrupted flushing of dirty data. Software prevented switching",
            "of cache mode. If you want to switch cache mode immediately, use",
            "'--flush-cache no' parameter.")
    }

    private func announceLeaving(
        _ current: CacheMode, for mode: CacheMode, _ flush: Bool?
    ) throws(Failure) {
        switch flush {
        case nil:
            throw Failure("Error: Required parameter (‘--flush-cache’) was not specified.")
        case true?:
            announce("CAS is currently flushing dirty data to primary storage devices.")
        case false?:
            announce(
                "CAS is currently migrating from \(current.longName) to \(mode.longName) mode.",
                "Dirty data are being flushed to primary storage device in background.",
                "Please find flushing progress via list caches command (‘casadm -L’) or",
                "via statistics command (‘casadm -P’).")
        }
    }

    private func watch(
        _ connection: CacheConnection, _ name: String,
        _ start: () async throws(ControlError) -> OperationStatus
    ) async throws(ControlError) -> OperationStatus {
        try await OperationWatch(connection: connection, name: name, session: session).run(start)
    }

    private func answer(
        _ status: OperationStatus, attempt: [String], interrupted: String...
    ) throws(Failure) -> Answer {
        switch status.state {
        case .cancelled:
            var failure = Failure(exitCode: .interrupted)
            failure.lines = interrupted
            throw failure
        case .failed, .running:
            var failure = Failure()
            failure.lines = attempt + [status.error?.message ?? "The server does not say why."]
            throw failure
        case .done:
            return Answer()
        }
    }

    private static let inactiveCore = Failure(
        "Core is inactive: its device was not there when the cache was loaded. Stop the cache and "
            + "load it with the device present.")

    private static func mountedFailure(_ line: String, _ mounts: [String]) -> Failure {
        var failure = Failure(line)
        failure.lines += mounts.map { "    \($0)" }
        return failure
    }

    /// The id and the devices are free for the next start when the server has gone.
    private func untilGone(_ cache: UInt16) async {
        for _ in 0..<1000 {
            let isGone =
                runningCaches.listener(cacheID: cache) == .absent
                && !runningCaches.isClaimed(cacheID: cache)
            if isGone { return }
            try? await Task.sleep(for: .milliseconds(10))
        }
    }
}

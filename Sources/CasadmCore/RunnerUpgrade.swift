import ControlClient
import ControlProtocol
import FoundationEssentials
import Glibc

/// Another program takes a cache over that is in use.
extension Runner {
    func upgrade(_ cache: UInt16) async throws(Failure) -> Answer {
        let attempt = "Error while upgrading the server of cache \(cache)"
        guard let record = runningCaches.record(cache),
            runningCaches.listener(cacheID: cache) == .listening
        else { throw Failure(attempt, "Cache ID does not exist") }
        let start = ServerStart(session: session, program: serverProgram)
        let program = try start.ownProgram()
        let versions = try start.versions(of: program)
        if let conflict = versions.conflict(with: record.versions) {
            throw Failure(
                attempt,
                "\(program) \(conflict): stop the cache and load it with the new program. It "
                    + "goes on as before.")
        }
        let wish = UpgradeWish(wish: UInt64.random(in: 1 ... .max), program: program)
        guard let text = try? JSONEncoder().encode(wish),
            (try? text.write(
                to: URL(
                    filePath: RunDirectory.upgradePath(
                        cacheID: cache, in: session.runDirectory)))) != nil,
            record.supervisor > 0, kill(record.supervisor, SIGHUP) == 0
        else { throw Failure(attempt, "Its supervisor cannot be reached.") }
        let result = try await upgradeResult(wish, cache, attempt)
        if let failure = result.failure {
            throw Failure(attempt, failure, "The old program goes on serving the cache.")
        }
        let pause = result.pauseMilliseconds ?? 0
        return Answer(
            lines: [
                "Successfully upgraded the server of cache \(cache) to \(versions.program)",
                "Requests waited for \(pause) ms",
            ],
            json: .object([
                ("cacheId", .number(cache)), ("version", .string(versions.program)),
                ("pauseMilliseconds", .number(pause)),
            ]))
    }

    private func upgradeResult(
        _ wish: UpgradeWish, _ cache: UInt16, _ attempt: String
    ) async throws(Failure) -> UpgradeResult {
        for _ in 0..<6000 {
            guard let record = runningCaches.record(cache) else {
                throw Failure(attempt, "The cache was stopped meanwhile.")
            }
            if let result = record.upgrade, result.wish == wish.wish { return result }
            try? await Task.sleep(for: .milliseconds(20))
        }
        throw Failure(
            attempt, "It did not end within two minutes. 'casadm -L' and its log tell more.")
    }
}

extension ServerStart {
    /// The path of the `casd` that belongs to this casadm.
    func ownProgram() throws(Failure) -> String {
        guard let path = Devices.resolved(programPath()) else {
            throw Failure("There is no casd beside this casadm.")
        }
        return path
    }

    /// Asks a `casd` what it agrees with.
    func versions(of path: String) throws(Failure) -> ServerVersions {
        let quoted = path.replacing("'", with: "'\\''")
        guard let pipe = popen("'\(quoted)' versions", "re") else {
            throw Failure("Cannot start \(path): \(Self.reason(errno)).")
        }
        var text: [UInt8] = []
        var byte = fgetc(pipe)
        while byte >= 0 {
            text.append(UInt8(truncatingIfNeeded: byte))
            byte = fgetc(pipe)
        }
        guard pclose(pipe) == 0,
            let versions = try? JSONDecoder().decode(ServerVersions.self, from: Data(text))
        else { throw Failure("\(path) does not tell its versions: it cannot take over a cache.") }
        return versions
    }
}

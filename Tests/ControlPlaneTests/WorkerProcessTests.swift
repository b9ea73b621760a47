import ControlPlane
import ControlProtocol
import Foundation
import Logging
import Testing

/// The process that serves a cache, in a process of its own: it handles signals, and its directory
/// is the process's.
@Suite struct WorkerProcessTests {
    @Test func aCacheThatCannotStartIsReportedAndNothingIsLeft() async {
        await #expect(processExitsWith: .success) {
            let stage = try Stage()
            let error = ErrorBody(code: ErrorBody.Code.deviceNotFound, message: "No such device.")
            let worker = stage.worker { _, _ throws(ErrorBody) in throw error }
            let code = await worker.run()
            #expect(code == 1)
            #expect(stage.readiness() == .failed(error))
            #expect(stage.files == [])
        }
    }

    @Test func itIsReadyWhenItsSocketAnswersAndEndsWhenTheCacheWasStopped() async {
        await #expect(processExitsWith: .success) {
            let stage = try Stage()
            let running = stage.run(warnings: ["Beware."])
            let readiness = await stage.awaitReadiness()
            #expect(readiness == .ready(cacheID: 5, warnings: ["Beware."]))
            #expect(stage.files == ["cache-5.lock", "cache-5.sock"])
            #expect(stage.socketMode == 0o700)
            let client = stage.client
            #expect(try await client.get(Endpoints.cache).status == 200)
            let id = try await client.post(Endpoints.stop, #"{"flush":true}"#)
                .decoded(OperationStatus.self).id
            let end = try await client.end(of: id)
            #expect(end.state == .done)
            let code = await running.value
            #expect(code == 0)
            #expect(stage.service.calls == ["stop true"])
            #expect(stage.files == ["cache-5.lock"])
        }
    }

    @Test(arguments: [SIGTERM, SIGINT])
    func aSignalStopsTheCacheAndKeepsItsDirtyData(number: Int32) async {
        await #expect(processExitsWith: .success) { [number] in
            let stage = try Stage()
            let running = stage.run()
            _ = await stage.awaitReadiness()
            kill(getpid(), number)
            let code = await running.value
            #expect(code == 0)
            #expect(stage.service.calls == ["stop false"])
            #expect(stage.files == ["cache-5.lock"])
        }
    }

    @Test func aSignalRightAfterReadinessStopsTheCacheInOrder() async {
        await #expect(processExitsWith: .success) {
            let stage = try Stage()
            let running = stage.run()
            _ = await stage.awaitReadiness()
            kill(getpid(), SIGTERM)
            let code = await running.value
            #expect(code == 0)
            #expect(stage.service.calls == ["stop false"])
        }
    }

    /// While the cache is being started nothing can be stopped yet; then the signal counts.
    @Test func aSignalDuringTheStartIsNotLost() async {
        await #expect(processExitsWith: .success) {
            let stage = try Stage()
            let service = stage.service
            let worker = stage.worker { _, _ throws(ErrorBody) in
                kill(getpid(), SIGTERM)
                return StartedService(
                    service: service, lock: try RunLock.claim(5), warnings: [])
            }
            // Another thread may get the signal, a little later: then the start has succeeded.
            let code = await worker.run()
            let readiness = await stage.awaitReadiness()
            #expect(code == 0 || readiness?.ok == false)
            #expect(service.calls == ["stop false"])
            #expect(stage.files == ["cache-5.lock"])
        }
    }

    /// A signal at any moment of the start: whoever waits for readiness hears something, and the
    /// cache is stopped once.
    @Test func aSignalWhileTheControlInterfaceComesUpIsAnswered() async {
        await #expect(processExitsWith: .success) {
            for round in 0..<40 {
                let stage = try Stage()
                let service = stage.service
                let worker = stage.worker { _, _ throws(ErrorBody) in
                    Thread {
                        usleep(UInt32(round) * 100)
                        kill(getpid(), SIGTERM)
                    }.start()
                    return StartedService(
                        service: service, lock: try RunLock.claim(5), warnings: [])
                }
                let running = Task { await worker.run() }
                let readiness = await stage.awaitReadiness()
                let code = await running.value
                #expect(readiness != nil)
                #expect(code == 0 || readiness?.ok == false, "round \(round)")
                #expect(service.calls == ["stop false"])
                #expect(stage.files == ["cache-5.lock"])
            }
        }
    }

    /// Somebody has an exported device open: the cache goes on, and the next signal tries again.
    @Test func aSignalDoesNotEndACacheThatIsInUse() async {
        await #expect(processExitsWith: .success) {
            let stage = try Stage()
            let running = stage.run()
            _ = await stage.awaitReadiness()
            stage.service.refuseNext(
                ErrorBody(code: ErrorBody.Code.deviceBusy, message: "In use."))
            kill(getpid(), SIGTERM)
            #expect(await eventually { stage.service.calls == ["stop false"] })
            #expect(try await stage.client.get(Endpoints.cache).status == 200)
            kill(getpid(), SIGTERM)
            let code = await running.value
            #expect(code == 0)
            #expect(stage.service.calls == ["stop false", "stop false"])
        }
    }

    @Test func theSocketOfADeadServerIsNoObstacle() async {
        await #expect(processExitsWith: .success) {
            let stage = try Stage()
            #expect(
                FileManager.default.createFile(
                    atPath: RunDirectory.socketPath(cacheID: 5), contents: nil))
            let running = stage.run()
            _ = await stage.awaitReadiness()
            #expect(
                await eventually {
                    (try? await stage.client.get(Endpoints.version).status) == 200
                })
            kill(getpid(), SIGTERM)
            let code = await running.value
            #expect(code == 0)
        }
    }
}

/// A run directory, the pipe that a starter of caches listens to, and a fake cache.
private final class Stage: Sendable {
    let folder = TemporaryFolder()
    let service = FakeService()
    private let readEnd: Int32
    private let writeEnd: Int32

    init() throws {
        var ends: [Int32] = [-1, -1]
        try #require(pipe(&ends) == 0)
        (readEnd, writeEnd) = (ends[0], ends[1])
        setenv(RunDirectory.override, folder.path, 1)
    }

    var client: HTTPClient { HTTPClient(socketPath: RunDirectory.socketPath(cacheID: 5)) }

    var files: [String] {
        ((try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []).sorted()
    }

    var socketMode: UInt32 {
        var status = stat()
        stat(RunDirectory.socketPath(cacheID: 5), &status)
        return status.st_mode & 0o777
    }

    func worker(
        _ start:
            @escaping @Sendable (StartOptions, Logger) throws(ErrorBody) -> StartedService
    ) -> WorkerProcess {
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        return WorkerProcess(
            options: StartOptions(cacheDevice: "/dev/null"),
            ready: ReadyPipe(descriptor: writeEnd), logger: logger, startService: start)
    }

    /// Runs a worker of cache 5.
    func run(warnings: [String] = []) -> Task<Int32, Never> {
        let service = service
        let worker = worker { _, _ throws(ErrorBody) in
            StartedService(service: service, lock: try RunLock.claim(5), warnings: warnings)
        }
        return Task { await worker.run() }
    }

    /// The line on the pipe; waits for it.
    func readiness() -> Readiness? {
        var bytes: [UInt8] = []
        var byte: UInt8 = 0
        while true {
            let count = read(readEnd, &byte, 1)
            if count < 0, errno == EINTR { continue }
            guard count == 1, byte != UInt8(ascii: "\n") else { break }
            bytes.append(byte)
        }
        return try? JSONDecoder().decode(Readiness.self, from: Data(bytes))
    }

    func awaitReadiness() async -> Readiness? {
        await withCheckedContinuation { continuation in
            Thread { continuation.resume(returning: self.readiness()) }.start()
        }
    }
}

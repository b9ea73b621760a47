import ControlClient
import ControlProtocol
import Foundation
import Glibc
import Synchronization
import Testing

@testable import CasadmCore

extension ProcessTests {
    /// Command lines against a server.
    @Suite(.serialized) final class ServerTests {
        private let folder: TemporaryFolder

        init() throws {
            folder = try TemporaryFolder()
        }

        private func casadm(_ line: String) async -> Run {
            await Run.casadm(line, environment: [RunDirectory.override: folder.path])
        }

        private var running: RunningCaches { RunningCaches(in: folder.path) }

        @Test func noCacheRuns() async {
            FakeServer.leaveStaleSocket(cacheID: 4, in: folder.path)
            #expect(running.ids().isEmpty)
            let list = await casadm("-L")
            #expect((list.exitCode, list.output) == (0, "No caches running\n"))
            let json = await casadm("-L -o json")
            #expect(json.output == "{\n  \"caches\": []\n}\n")
        }

        @Test(arguments: [
            ("-P -i 4", "Cache Id 4 not running\n"),
            ("-F -i 4", "Cache ID does not exist\n"),
            ("-T -i 4", "Error while stopping cache 4\nCache ID does not exist\n"),
            (
                "-R -i 4 -j 1",
                "Error while removing core device 1 from cache instance 4\n"
                    + "Cache ID does not exist\n"
            ),
            (
                "-Z -i 4", "Error encountered while resetting counters\nCache ID does not exist\n"
            ),
            (
                "-Q -i 4 -c wt",
                "Error while retrieving cache properties.\nCache ID does not exist\n"
            ),
        ])
        func anAbsentCacheIsNamed(line: String, complaint: String) async {
            FakeServer.leaveStaleSocket(cacheID: 4, in: folder.path)
            let run = await casadm(line)
            #expect(run.exitCode == 1)
            #expect(run.complaints == complaint)
            #expect(run.output.isEmpty)
            let json = await casadm(line + " -o json")
            #expect(json.exitCode == 1)
            #expect(json.output.contains("\"error\": "))
        }

        @Test func listAndStatisticsShowWhatTheServerSays() async {
            let server = FakeServer(cacheID: 1, in: folder.path) { _ in
                .with(200, CacheSnapshot.sample())
            }
            defer { server.stop() }
            let list = await casadm("-L -o csv -b")
            #expect(list.exitCode == 0)
            #expect(list.output.hasSuffix("core,1,/dev/core,Active,-,/dev/cas1-1\n"))
            let stats = await casadm("-P -i 1 -f usage -o csv")
            #expect(
                stats.output == """
                    Occupancy [4KiB Blocks],Occupancy [%],Free [4KiB Blocks],Free [%],\
                    Clean [4KiB Blocks],Clean [%],Dirty [4KiB Blocks],Dirty [%]
                    1000,9.8,9240,90.2,667,6.5,333,3.3

                    """)
            #expect(server.calls == ["GET /v1/cache", "GET /v1/cache"])
        }

        @Test(arguments: [
            ("-P -i 1 -j 9", "No such core device in cache.\n"),
            ("-P -i 1 -d 5", "IO class 5 is not configured.\n"),
        ])
        func statisticsOfWhatIsNotThere(line: String, complaint: String) async {
            let server = FakeServer(cacheID: 1, in: folder.path) { _ in
                .with(200, CacheSnapshot.sample())
            }
            defer { server.stop() }
            let run = await casadm(line)
            #expect((run.exitCode, run.complaints) == (1, complaint))
        }

        @Test func aCoreIsAdded() async throws {
            let device = try folder.file("disk", "")
            let body = Mutex(Data())
            let server = FakeServer(cacheID: 1, in: folder.path) { call in
                guard call.method == "POST" else { return .with(200, CacheSnapshot.sample()) }
                body.withLock { $0 = call.body }
                return .with(200, AddedCore(id: 2, exportedDevice: "/dev/cas1-2"))
            }
            defer { server.stop() }
            let run = await casadm("-A -i 1 -j 2 -d \(device)")
            #expect(
                (run.exitCode, run.output) == (0, "Successfully added core 2 to cache instance 1\n")
            )
            let sent = try JSONDecoder().decode(AddCoreBody.self, from: body.withLock { $0 })
            #expect(sent == AddCoreBody(device: device, id: 2))
        }

        @Test func aRefusalIsPassedOn() async throws {
            let device = try folder.file("disk", "")
            let server = FakeServer(cacheID: 1, in: folder.path) { call in
                call.method == "POST"
                    ? .with(409, ErrorBody(code: "core-id-used", message: "Core id already used"))
                    : .with(200, CacheSnapshot.sample())
            }
            defer { server.stop() }
            let run = await casadm("-A -i 1 -d \(device)")
            #expect(run.exitCode == 1)
            #expect(
                run.complaints
                    == "Error while adding core device to cache instance 1\nCore id already used\n")
        }

        @Test func aBusyDeviceThatIsACoreIsCalledCached() async throws {
            let device = try folder.file("disk", "")
            let server = FakeServer(cacheID: 1, in: folder.path) { call in
                if call.method == "POST" {
                    return .with(409, ErrorBody(code: ErrorBody.Code.deviceBusy, message: "Busy."))
                }
                var cache = CacheSnapshot.sample()
                cache.cores[0].device = device
                return .with(200, cache)
            }
            defer { server.stop() }
            let run = await casadm("-A -i 1 -d \(device)")
            #expect(run.complaints.hasSuffix("\nCore device '\(device)' is already cached.\n"))
        }

        /// An operation that is running for three polls.
        private static func operation(
            _ kind: OperationStatus.Kind, _ end: OperationStatus.State,
            polls: borrowing Atomic<Int>,
            error: ErrorBody? = nil
        ) -> OperationStatus {
            let count = polls.add(1, ordering: .relaxed).newValue
            return OperationStatus(
                id: 7, kind: kind, state: count > 3 ? end : .running, progress: 0.1,
                error: count > 3 ? error : nil)
        }

        @Test func aFlushIsFollowedToItsEnd() async {
            let polls = Atomic(0)
            let server = FakeServer(cacheID: 1, in: folder.path) { _ in
                .with(200, Self.operation(.flush, .done, polls: polls))
            }
            defer { server.stop() }
            let run = await casadm("-F -i 1 -j 3")
            #expect((run.exitCode, run.output, run.complaints) == (0, "", ""))
            #expect(
                server.calls == ["POST /v1/flush"]
                    + Array(repeating: "GET /v1/operations/7", count: 3))
        }

        @Test func aSecondFlushIsRefused() async {
            let server = FakeServer(cacheID: 1, in: folder.path) { _ in
                .with(
                    409,
                    ErrorBody(
                        code: ErrorBody.Code.flushInProgress,
                        message: "Another flush operation in progress"))
            }
            defer { server.stop() }
            let run = await casadm("-F -i 1")
            #expect((run.exitCode, run.complaints) == (1, "Another flush operation in progress\n"))
        }

        @Test func controlCEndsAFlushAndLeavesTheCache() async {
            let cancelled = Atomic(false)
            let server = FakeServer(cacheID: 1, in: folder.path) { call in
                if call.method == "POST" { kill(getpid(), SIGINT) }
                if call.method == "DELETE" { cancelled.store(true, ordering: .relaxed) }
                let state: OperationStatus.State =
                    cancelled.load(ordering: .relaxed) && call.method == "GET"
                    ? .cancelled : .running
                return .with(200, OperationStatus(id: 7, kind: .flush, state: state))
            }
            defer { server.stop() }
            let run = await casadm("-F -i 1")
            #expect(run.exitCode == 2)
            #expect(
                run.complaints == """
                    You have interrupted flushing of cache dirty data. CAS continues to operate
                    normally and dirty data that remains on cache device stays there until it is \
                    flushed.

                    """)
            #expect(server.calls.contains("DELETE /v1/operations/7"))
        }

        @Test func aFailedStopSaysWhy() async {
            let polls = Atomic(0)
            let server = FakeServer(cacheID: 1, in: folder.path) { call in
                if call.path == Endpoints.cache { return .with(200, CacheSnapshot.sample()) }
                let error = ErrorBody(code: "failed", message: "Cannot write /dev/core.")
                return .with(200, Self.operation(.stop, .failed, polls: polls, error: error))
            }
            defer { server.stop() }
            let run = await casadm("-T -i 1")
            #expect(run.exitCode == 1)
            #expect(run.complaints == "Error while stopping cache 1\nCannot write /dev/core.\n")
        }

        @Test func stopReturnsWhenTheServerIsGone() async {
            let polls = Atomic(0)
            let body = Mutex(Data())
            let box = Mutex<FakeServer?>(nil)
            let server = FakeServer(cacheID: 1, in: folder.path) { call in
                if call.path == Endpoints.cache { return .with(200, CacheSnapshot.sample()) }
                if call.method == "POST" { body.withLock { $0 = call.body } }
                let status = Self.operation(.stop, .done, polls: polls)
                if status.state == .done { box.withLock { $0?.stop() } }
                return .with(200, status)
            }
            box.withLock { $0 = server }
            let run = await casadm("-T -n -i 1")
            #expect((run.exitCode, run.output) == (0, "Successfully stopped cache 1\n"))
            #expect(String(decoding: body.withLock { $0 }, as: UTF8.self) == "{\"flush\":false}")
            #expect(running.listener(cacheID: 1) == .absent)
        }

        @Test func aLockTellsThatAServerLives() throws {
            #expect(!running.isClaimed(cacheID: 5))
            let lock = open(try folder.file("cache-5.lock", ""), O_RDWR)
            #expect(!running.isClaimed(cacheID: 5))
            #expect(flock(lock, LOCK_EX) == 0)
            #expect(running.isClaimed(cacheID: 5))
            close(lock)
            #expect(!running.isClaimed(cacheID: 5))
        }

        @Test func leavingWriteBackNeedsAWordAboutDirtyData() async {
            let polls = Atomic(3)
            let server = FakeServer(cacheID: 1, in: folder.path) { call in
                call.path == Endpoints.cache
                    ? .with(200, CacheSnapshot.sample())
                    : .with(200, Self.operation(.setMode, .done, polls: polls))
            }
            defer { server.stop() }
            let silent = await casadm("-Q -i 1 -c wt")
            #expect(silent.exitCode == 1)
            #expect(
                silent.complaints
                    == "Error: Required parameter (‘--flush-cache’) was not specified.\n")
            let flushing = await casadm("-Q -i 1 -c wt -f yes")
            #expect(flushing.exitCode == 0)
            #expect(
                flushing.output
                    == "CAS is currently flushing dirty data to primary storage devices.\n")
            let lazy = await casadm("-Q -i 1 -c pt -f no")
            #expect(
                lazy.output.hasPrefix(
                    "CAS is currently migrating from Write-Back to Pass-Through mode.\n"))
            let staying = await casadm("-Q -i 1 -c wo")
            #expect((staying.exitCode, staying.output) == (0, ""))
        }

        @Test func anInactiveCoreIsAnothersBusiness() async {
            let server = FakeServer(cacheID: 1, in: folder.path) { call in
                call.method == "DELETE"
                    ? .with(409, ErrorBody(code: ErrorBody.Code.coreInactive, message: "Inactive."))
                    : .with(200, CacheSnapshot.sample())
            }
            defer { server.stop() }
            let run = await casadm("-R -i 1 -j 1 -f")
            #expect(
                run.complaints
                    == "Core is inactive: its device was not there when the cache was loaded. "
                    + "Stop the cache and load it with the device present.\n"
            )
            #expect(server.calls.last == "DELETE /v1/cores/1?flush=false")
        }

        @Test func anotherProtocolIsRefused() async {
            let server = FakeServer(cacheID: 1, in: folder.path, version: "999") { _ in
                .with(200, CacheSnapshot.sample())
            }
            defer { server.stop() }
            let run = await casadm("-P -i 1")
            #expect(run.exitCode == 1)
            #expect(run.complaints.contains("speaks control protocol 999, this program 1."))
        }

        /// Told before its supervisor hears of the wish.
        @Test(arguments: [
            (
                #"{"memoryImage":4,"control":1,"program":"2"}"#,
                "works with memory images of version 4"
            ),
            (#"{"memoryImage":3,"control":2,"program":"2"}"#, "speaks control protocol 2"),
            ("I am casd.", "does not tell its versions"),
        ])
        func anUpgradeToOtherVersionsIsRefused(versions: String, reason: String) async throws {
            let server = FakeServer(cacheID: 1, in: folder.path) { _ in .hangUp }
            defer { server.stop() }
            let record = CacheRecord(
                id: 1, device: "/dev/x", versions: ServerVersions(memoryImage: 3))
            try JSONEncoder().encode(record).write(
                to: URL(filePath: RunDirectory.recordPath(cacheID: 1, in: folder.path)))
            let program = try folder.file("casd", "#!/bin/sh\necho '\(versions)'\n", mode: 0o755)
            let environment = [RunDirectory.override: folder.path, "PATH": "/usr/bin:/bin"]
            let runner = Runner(
                session: Recorder().session(environment: environment), format: .table,
                serverProgram: program)
            let failure = await #expect(throws: Failure.self) {
                try await runner.run(.upgrade(cache: 1))
            }
            #expect(failure.map { "\($0)".contains(reason) } == true)
            #expect(access(RunDirectory.upgradePath(cacheID: 1, in: folder.path), F_OK) != 0)
        }

        @Test func aServerThatHangsUpIsReported() async {
            let server = FakeServer(cacheID: 1, in: folder.path) { _ in .hangUp }
            defer { server.stop() }
            let run = await casadm("-P -i 1")
            #expect(run.exitCode == 1)
            #expect(run.complaints.hasPrefix("The server of cache 1 does not answer: "))
        }

        @Test func aDeviceAlreadyInUseAsCacheIsCalledSo() async throws {
            let device = try folder.file("disk", "")
            let environment = [
                RunDirectory.override: folder.path, ServerStart.logDirectoryOverride: folder.path,
                "PATH": "/usr/bin:/bin",
            ]
            let server = FakeServer(cacheID: 1, in: folder.path) { _ in
                var cache = CacheSnapshot.sample()
                cache.device = device
                return .with(200, cache)
            }
            defer { server.stop() }
            let program = try folder.file(
                "casd", "#!/bin/sh\necho '{\"ok\":false,\"message\":\"Busy.\"}' >&3\n", mode: 0o755)
            let recorder = Recorder()
            let runner = Runner(
                session: recorder.session(environment: environment), format: .table,
                serverProgram: program)
            await #expect(
                throws: Failure(
                    "Error inserting cache 2", "Cache device '\(device)' is already used as cache.")
            ) { try await runner.run(.start(StartOptions(cacheDevice: device))) }
        }
    }
}

import ControlProtocol
import Foundation
import Testing

/// What clients and servers of different versions have to agree on.
@Suite struct ProtocolTests {
    private static func json(_ value: some Encodable) throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return String(decoding: try encoder.encode(value), as: UTF8.self)
    }

    /// The text a value becomes, if the text becomes the value again.
    private static func roundTrip<T: Codable & Equatable>(_ value: T) throws -> String? {
        let text = try json(value)
        let again = try JSONDecoder().decode(T.self, from: Data(text.utf8))
        return again == value ? text : nil
    }

    @Test func aProgramOfOtherVersionsCannotGoOn() {
        let running = ServerVersions(memoryImage: 3)
        var other = running
        other.program = "99"
        #expect(other.conflict(with: running) == nil)
        other.memoryImage = 4
        #expect(
            other.conflict(with: running)
                == "works with memory images of version 4, and the running server with version 3")
        other = running
        other.control = 7
        #expect(
            other.conflict(with: running)
                == "speaks control protocol 7, and the running server 1")
    }

    @Test func bodiesHaveTheirNames() throws {
        #expect(
            try Self.roundTrip(ErrorBody(code: "failed", message: "No."))
                == #"{"code":"failed","message":"No."}"#)
        #expect(
            try Self.roundTrip(VersionBody(protocolVersion: 1, programVersion: "0.1.0"))
                == #"{"programVersion":"0.1.0","protocolVersion":1}"#)
        #expect(
            try Self.roundTrip(AddCoreBody(device: "/dev/sdb")) == #"{"device":"/dev/sdb"}"#)
        #expect(
            try Self.roundTrip(AddCoreBody(device: "/dev/sdb", id: 0))
                == #"{"device":"/dev/sdb","id":0}"#)
        #expect(
            try Self.roundTrip(AddedCore(id: 3, exportedDevice: "/dev/cas1-3"))
                == #"{"exportedDevice":"/dev/cas1-3","id":3}"#)
        #expect(try Self.roundTrip(FlushBody()) == "{}")
        #expect(try Self.roundTrip(FlushBody(core: 7)) == #"{"core":7}"#)
        #expect(try Self.roundTrip(ModeBody(mode: .writeThrough)) == #"{"mode":"wt"}"#)
        #expect(
            try Self.roundTrip(ModeBody(mode: .writeBack, flush: false))
                == #"{"flush":false,"mode":"wb"}"#)
        #expect(try Self.roundTrip(StopBody(flush: true)) == #"{"flush":true}"#)
        #expect(try Self.roundTrip(ResetCountersBody()) == "{}")
    }

    @Test func operationsHaveTheirNames() throws {
        #expect(
            try Self.roundTrip(OperationStatus(id: 4, kind: .removeCore, state: .running))
                == #"{"id":4,"kind":"removeCore","state":"running"}"#)
        let failed = OperationStatus(
            id: 5, kind: .setMode, state: .failed, progress: 0.5,
            error: ErrorBody(code: "failed", message: "No."))
        #expect(
            try Self.roundTrip(failed)
                == #"{"error":{"code":"failed","message":"No."},"id":5,"kind":"setMode","#
                + #""progress":0.5,"state":"failed"}"#)
        for kind in ["flush", "stop", "removeCore", "setMode"] {
            #expect(OperationStatus.Kind(rawValue: kind) != nil)
        }
        for state in ["running", "done", "failed", "cancelled"] {
            #expect(OperationStatus.State(rawValue: state) != nil)
        }
    }

    @Test func aSnapshotSurvivesTheWire() throws {
        #expect(try Self.roundTrip(Fixtures.snapshot) != nil)
        var clean = Fixtures.snapshot
        clean.previousMode = nil
        clean.dirtySeconds = nil
        clean.flushProgress = nil
        clean.cores = []
        let text = try #require(try Self.roundTrip(clean))
        #expect(!text.contains("dirtySeconds") && !text.contains("previousMode"))
    }

    @Test func pathsLeadToTheirEndpoints() {
        #expect(Endpoints.core(4095, flush: true) == "/v1/cores/4095?flush=true")
        #expect(Endpoints.core(0, flush: false) == "/v1/cores/0?flush=false")
        #expect(Endpoints.operation(.max) == "/v1/operations/18446744073709551615")
    }

    @Test func modesHaveTheirNames() {
        let names = CacheMode.allCases.map { "\($0.rawValue) \($0.longName) \($0.isLazyWrite)" }
        #expect(
            names == [
                "wt Write-Through false", "wb Write-Back true", "wa Write-Around false",
                "pt Pass-Through false", "wo Write-Only true",
            ])
    }

    @Test func requestsAddUp() {
        let direction = RequestCounters.Direction(
            hits: 1, deferred: 10, partialMisses: 100, fullMisses: 1000, passThrough: 10_000)
        let counters = RequestCounters(
            reads: direction, writes: direction, prefetchReadahead: 100_000, cleaner: 1_000_000)
        #expect(direction.total == 1111)
        #expect(counters.serviced == 2222 && counters.user == 22_222)
        #expect(counters.total == 1_122_222)
        let errors = ErrorCounters(cacheReads: 1, cacheWrites: 2, coreReads: 4, coreWrites: 8)
        #expect(errors.cacheTotal == 3 && errors.coreTotal == 12 && errors.total == 15)
    }
}

@Suite struct StartOptionsTests {
    @Test func onlyWhatIsAskedForIsOnTheCommandLine() {
        #expect(
            StartOptions(cacheDevice: "/dev/nvme0n1").arguments(readyDescriptor: nil)
                == ["--cache-device", "/dev/nvme0n1"])
    }

    @Test func everythingThatIsAskedForIsOnTheCommandLine() {
        let options = StartOptions(
            cacheDevice: "/dev/disk with space", cacheID: 12, mode: .writeBack, lineKiB: 4,
            load: true, force: true)
        #expect(
            options.arguments(readyDescriptor: 3) == [
                "--cache-device", "/dev/disk with space", "--cache-id", "12", "--cache-mode", "wb",
                "--cache-line-size", "4", "--load", "--force", "--ready-fd", "3",
            ])
    }

    @Test func readinessIsALineThatOldClientsUnderstand() throws {
        func text(_ readiness: Readiness) throws -> String {
            let encoder = JSONEncoder()
            encoder.outputFormatting = .sortedKeys
            return String(decoding: try encoder.encode(readiness), as: UTF8.self)
        }
        #expect(try text(.ready(cacheID: 3)) == #"{"cacheId":3,"ok":true}"#)
        #expect(
            try text(.ready(cacheID: 3, warnings: ["Beware."]))
                == #"{"cacheId":3,"ok":true,"warnings":["Beware."]}"#)
        let error = ErrorBody(code: ErrorBody.Code.deviceBusy, message: "In use.")
        #expect(
            try text(.failed(error)) == #"{"code":"device-busy","message":"In use.","ok":false}"#)
        let again = try JSONDecoder().decode(
            Readiness.self, from: Data(#"{"ok":true,"cacheId":9,"news":1}"#.utf8))
        #expect(again == .ready(cacheID: 9))
    }
}

@Suite struct RunDirectoryTests {
    @Test func aCachesFilesAreNamedAfterIt() {
        #expect(RunDirectory.socketPath(cacheID: 7, in: "/x") == "/x/cache-7.sock")
        #expect(RunDirectory.lockPath(cacheID: 7, in: "/x") == "/x/cache-7.lock")
        for id in [1, 16384, 65535] as [UInt16] {
            #expect(RunDirectory.cacheID(socketName: RunDirectory.socketName(cacheID: id)) == id)
        }
    }

    @Test(arguments: [
        "cache-.sock", "cache-7.lock", "cache-7", "7.sock", "cache-70000.sock", "cache-x.sock",
        "xcache-7.sock", "cache-7.sock.old", "cache--1.sock", "",
    ])
    func otherFilesAreOfNoCache(name: String) {
        #expect(RunDirectory.cacheID(socketName: name) == nil)
    }

    @Test func theEnvironmentNamesAnotherDirectory() async {
        await #expect(processExitsWith: .success) {
            unsetenv(RunDirectory.override)
            #expect(RunDirectory.path == "/run/ublk-cas")
            setenv(RunDirectory.override, "", 1)
            #expect(RunDirectory.path == "/run/ublk-cas")
            setenv(RunDirectory.override, "/somewhere", 1)
            #expect(RunDirectory.path == "/somewhere")
            #expect(RunDirectory.socketPath(cacheID: 2) == "/somewhere/cache-2.sock")
        }
    }
}

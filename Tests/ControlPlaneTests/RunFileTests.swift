import ControlProtocol
import Foundation
import Testing

@testable import ControlPlane

/// Claims on cache ids. Each in a process of its own, for the directory is the process's.
@Suite struct RunLockTests {
    @Test func anIdIsClaimedOnceAndFreeAgainAfterwards() async {
        await #expect(processExitsWith: .success) {
            let folder = TemporaryFolder()
            setenv(RunDirectory.override, folder.path + "/run", 1)
            var first: RunLock? = try RunLock.claim(7)
            #expect(first?.cacheID == 7)
            #expect(
                refusal { () throws(ErrorBody) in _ = try RunLock.claim(7) }
                    == ErrorBody(
                        code: ErrorBody.Code.cacheIDTaken, message: "Cache ID already exists"))
            #expect(try RunLock.claim(8).cacheID == 8)
            first = nil
            #expect(try RunLock.claim(7).cacheID == 7)
        }
    }

    @Test func withoutAWishItIsTheFirstFreeOne() async {
        await #expect(processExitsWith: .success) {
            let folder = TemporaryFolder()
            setenv(RunDirectory.override, folder.path, 1)
            let second = try RunLock.claim(2)
            let locks = try (0..<3).map { _ in try RunLock.claim(nil) }
            #expect(second.cacheID == 2 && locks.map(\.cacheID) == [1, 3, 4])
        }
    }

    @Test func thereAre16384Ids() async {
        await #expect(processExitsWith: .success) {
            let folder = TemporaryFolder()
            setenv(RunDirectory.override, folder.path, 1)
            for id in [0, 16385, .max] as [UInt16] {
                #expect(
                    refusal { () throws(ErrorBody) in _ = try RunLock.claim(id) }
                        == ErrorBody(
                            code: ErrorBody.Code.badRequest,
                            message: "Invalid cache id \(id), must be in the range 1-16384."))
            }
            let last = try RunLock.claim(16384)
            #expect(last.cacheID == 16384)
        }
    }

    /// The claim of a process that was killed ends with it; its file stays and means nothing.
    @Test func aFileWithoutALockIsNoClaim() async {
        await #expect(processExitsWith: .success) {
            let folder = TemporaryFolder()
            setenv(RunDirectory.override, folder.path, 1)
            #expect(
                FileManager.default.createFile(
                    atPath: RunDirectory.lockPath(cacheID: 3, in: folder.path), contents: nil))
            let lock = try RunLock.claim(3)
            #expect(lock.cacheID == 3)
        }
    }

    @Test func theDirectoryIsMadeForItsOwnerAlone() async {
        await #expect(processExitsWith: .success) {
            let folder = TemporaryFolder()
            let path = folder.path + "/run"
            setenv(RunDirectory.override, path, 1)
            let lock = try RunLock.claim(1)
            var status = stat()
            #expect(stat(path, &status) == 0 && status.st_mode & 0o777 == 0o700)
            let file = RunDirectory.lockPath(cacheID: lock.cacheID)
            #expect(stat(file, &status) == 0 && status.st_mode & 0o777 == 0o600)
            setenv(RunDirectory.override, folder.path + "/no/such", 1)
            let error = refusal { () throws(ErrorBody) in _ = try RunLock.claim(1) }
            #expect(error?.code == ErrorBody.Code.failed)
            #expect(
                error?.message == "Making the directory '\(folder.path)/no/such' failed: "
                    + "No such file or directory.")
        }
    }

    @Test func theSocketOfAnEarlierServerIsRemoved() async {
        await #expect(processExitsWith: .success) {
            let folder = TemporaryFolder()
            setenv(RunDirectory.override, folder.path, 1)
            let lock = try RunLock.claim(3)
            let (own, other) = (
                RunDirectory.socketPath(cacheID: 3), RunDirectory.socketPath(cacheID: 4)
            )
            for path in [own, other] {
                #expect(FileManager.default.createFile(atPath: path, contents: nil))
            }
            lock.removeSocket()
            #expect(!FileManager.default.fileExists(atPath: own))
            #expect(FileManager.default.fileExists(atPath: other))
        }
    }
}

/// The error that `body` throws.
private func refusal(_ body: () throws(ErrorBody) -> Void) -> ErrorBody? {
    do throws(ErrorBody) {
        try body()
        return nil
    } catch {
        return error
    }
}

@Suite struct ReadyPipeTests {
    private struct Pipe {
        let readEnd: Int32
        let writeEnd: Int32

        init() throws {
            var ends: [Int32] = [-1, -1]
            try #require(pipe(&ends) == 0)
            (readEnd, writeEnd) = (ends[0], ends[1])
        }
    }

    @Test func readinessIsOneLineAndThenTheEnd() throws {
        let pipe = try Pipe()
        defer { close(pipe.readEnd) }
        ReadyPipe(descriptor: pipe.writeEnd).report(.ready(cacheID: 12, warnings: ["Beware."]))
        let line = try #require(readLine(from: pipe.readEnd))
        let readiness = try JSONDecoder().decode(Readiness.self, from: Data(line))
        #expect(readiness == .ready(cacheID: 12, warnings: ["Beware."]))
        #expect(readLine(from: pipe.readEnd) == nil)
        var byte: UInt8 = 0
        #expect(read(pipe.readEnd, &byte, 1) == 0)
    }

    @Test func aLineIsPassedOnAsItIs() throws {
        let pipe = try Pipe()
        defer { close(pipe.readEnd) }
        ReadyPipe(descriptor: pipe.writeEnd).relay(Array("any thing".utf8))
        #expect(readLine(from: pipe.readEnd) == Array("any thing".utf8))
        #expect(readLine(from: pipe.readEnd) == nil)
    }

    @Test func halfALineIsNone() throws {
        let pipe = try Pipe()
        defer { close(pipe.readEnd) }
        #expect(write(pipe.writeEnd, "half", 4) == 4)
        close(pipe.writeEnd)
        #expect(readLine(from: pipe.readEnd) == nil)
    }

    @Test func nobodyNeedsToListen() throws {
        ReadyPipe(descriptor: nil).report(.ready(cacheID: 1))
        ReadyPipe(descriptor: nil).relay([1, 2, 3])
    }
}

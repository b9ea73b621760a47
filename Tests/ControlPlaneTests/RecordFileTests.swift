import ControlClient
import ControlPlane
import ControlProtocol
import Foundation
import Testing

@Suite struct RecordFileTests {
    private func inRunDirectory(_ body: (RunningCaches) -> Void) {
        let folder = TemporaryFolder()
        body(RunningCaches(in: folder.path))
    }

    @Test func aRecordIsThereUntilItIsRemoved() {
        inRunDirectory { caches in
            let file = RecordFile(cacheID: 3, in: caches.directory)
            #expect(caches.unserved().isEmpty)
            var record = CacheRecord(id: 3, device: "/dev/x", supervisor: 7)
            #expect(file.write(record))
            #expect(caches.record(3) == record)
            // Somebody is about to bring its server back.
            #expect(caches.unserved() == [.init(record: record, isRestarting: true)])
            record.failure = "It is out of service."
            record.log = ["a line"]
            #expect(file.write(record))
            #expect(caches.unserved() == [.init(record: record, isRestarting: false)])
            file.remove()
            #expect(caches.unserved().isEmpty && caches.record(3) == nil)
        }
    }

    @Test func aRecordWithoutItsSupervisorTellsOfACacheThatIsNotRunning() {
        inRunDirectory { caches in
            let record = CacheRecord(id: 4, device: "/dev/x")
            do {
                let file = RecordFile(cacheID: 4, in: caches.directory)
                #expect(file.write(record))
            }
            #expect(caches.unserved() == [.init(record: record, isRestarting: false)])
        }
    }
}

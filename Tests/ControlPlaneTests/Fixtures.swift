import ControlPlane
import ControlProtocol
import Foundation
import Synchronization

enum Fixtures {
    static let snapshot = CacheSnapshot(
        id: 5, state: .running, mode: .writeBack, previousMode: .writeThrough,
        device: "/dev/nvme0n1", sizeBytes: 1 << 30, lineBytes: 4096, cleaningPolicy: "nop",
        promotionPolicy: "always", prefetchPolicy: "none", dirtySeconds: 9, metadataBytes: 12345,
        flushProgress: 0.25,
        statistics: Statistics(
            usage: Usage(occupancy: 10, free: 20, clean: 6, dirty: 4),
            requests: RequestCounters(reads: .init(hits: 3), writes: .init(fullMisses: 4)),
            blocks: BlockCounters(coreReads: 4096), errors: ErrorCounters(coreWrites: 1)),
        cores: [
            CoreSnapshot(
                id: 1, state: .active, device: "/dev/sdb", exportedDevice: "/dev/cas5-1",
                ublkDevice: "/dev/ublkb0", sizeBytes: 1 << 40, sequentialCutoffKiB: 1024,
                sequentialCutoffPolicy: "never", dirtySeconds: 9, flushProgress: 0.25,
                statistics: Statistics())
        ])
}

/// A cache that does nothing but remember what it was asked.
final class FakeService: CacheService {
    struct State {
        var calls: [String] = []
        /// Thrown by the next call.
        var refusal: ErrorBody?
        /// Calls with a watch wait until this is over, or they are cancelled.
        var isHeld = false
    }

    let state = Mutex(State())

    var calls: [String] { state.withLock { $0.calls } }
    func refuseNext(_ error: ErrorBody) { state.withLock { $0.refusal = error } }
    func hold() { state.withLock { $0.isHeld = true } }
    func release() { state.withLock { $0.isHeld = false } }

    private func note(_ call: String) throws(ErrorBody) {
        let refusal = state.withLock { state in
            state.calls.append(call)
            defer { state.refusal = nil }
            return state.refusal
        }
        if let refusal { throw refusal }
    }

    private func note(_ call: String, _ watch: OperationWatch) throws(ErrorBody) {
        try note(call)
        while state.withLock({ $0.isHeld }) {
            watch.setProgress(0.5)
            if watch.isCancelled {
                throw ErrorBody(code: ErrorBody.Code.cancelled, message: "Cancelled.")
            }
            usleep(1000)
        }
    }

    func snapshot() -> CacheSnapshot { Fixtures.snapshot }

    func addCore(_ body: AddCoreBody) throws(ErrorBody) -> AddedCore {
        try note("add \(body.device) \(body.id.map(String.init) ?? "-")")
        return AddedCore(id: body.id ?? 1, exportedDevice: "/dev/cas5-\(body.id ?? 1)")
    }

    func removeCore(_ id: UInt16, flush: Bool, _ watch: OperationWatch) throws(ErrorBody) {
        try note("remove \(id) \(flush)", watch)
    }

    func flush(core: UInt16?, _ watch: OperationWatch) throws(ErrorBody) {
        try note("flush \(core.map(String.init) ?? "all")", watch)
    }

    func setMode(_ body: ModeBody, _ watch: OperationWatch) throws(ErrorBody) {
        try note("mode \(body.mode.rawValue) \(body.flush.map(String.init) ?? "-")", watch)
    }

    func setParameters(_ body: ParametersBody) throws(ErrorBody) {
        try note("parameters \(body.durability?.rawValue ?? "-")")
    }

    func resetCounters(core: UInt16?) throws(ErrorBody) {
        try note("reset \(core.map(String.init) ?? "all")")
    }

    func stop(flush: Bool, _ watch: OperationWatch) throws(ErrorBody) {
        try note("stop \(flush)", watch)
    }
}

/// A folder that is removed with its owner.
final class TemporaryFolder: Sendable {
    let path: String

    init() {
        var template = Array("/tmp/ublk-cas-control-XXXXXX".utf8CString)
        precondition(mkdtemp(&template) != nil, "no temporary folder could be made")
        path = String(
            decoding: template.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }
}

/// Asks until it is so, for ten seconds at the most.
func eventually(_ isSo: () async throws -> Bool) async rethrows -> Bool {
    for _ in 0..<2000 {
        if try await isSo() { return true }
        try? await Task.sleep(for: .milliseconds(5))
    }
    return false
}

package import ControlProtocol
import Foundation
import Synchronization

/// The wish to stop early, and the progress, of one operation; shared with whoever carries it out.
package final class OperationWatch: Sendable {
    private let cancelled = Atomic(false)
    /// Parts per million; negative: not known.
    private let progressPPM = Atomic<Int>(-1)

    package init() {}

    package var isCancelled: Bool { cancelled.load(ordering: .acquiring) }
    package func cancel() { cancelled.store(true, ordering: .releasing) }

    /// 0.0 to 1.0, or nil as long as nothing is known.
    package var progress: Double? {
        let value = progressPPM.load(ordering: .relaxed)
        return value < 0 ? nil : Double(value) / 1_000_000
    }

    package func setProgress(_ done: Double) {
        progressPPM.store(Int(max(0, min(1, done)) * 1_000_000), ordering: .relaxed)
    }
}

/// The long operations of one cache: at most one that changes something at a time.
///
/// Each runs on a thread of its own and is remembered until later ones push it out.
package final class OperationTable: Sendable {
    private struct Entry {
        var status: OperationStatus
        let watch: OperationWatch
    }

    private struct State {
        var entries: [UInt64: Entry] = [:]
        var next: UInt64 = 1
        var isBusy = false
        var runningKind: OperationStatus.Kind?
    }

    private static let keptMax = 64
    private let state = Mutex(State())

    package init() {}

    /// Starts `work` on its own thread; refused while another change is under way.
    package func start(
        _ kind: OperationStatus.Kind,
        _ work: @escaping @Sendable (OperationWatch) throws(ErrorBody) -> Void
    ) throws(ErrorBody) -> OperationStatus {
        let watch = OperationWatch()
        let status = try enter(kind, watch)
        let id = status.id
        let thread = Thread {
            do throws(ErrorBody) {
                try work(watch)
                self.end(id, .done, nil)
            } catch {
                self.end(id, error.code == ErrorBody.Code.cancelled ? .cancelled : .failed, error)
            }
        }
        thread.name = "operation"
        thread.start()
        return status
    }

    /// Runs a short change in the caller's thread, under the same exclusion.
    package func runExclusively<R>(_ work: () throws(ErrorBody) -> R) throws(ErrorBody) -> R {
        if let refusal = state.withLock({ state in Self.refusal(&state, kind: nil) }) {
            throw refusal
        }
        defer { state.withLock { $0.isBusy = false } }
        return try work()
    }

    private func enter(_ kind: OperationStatus.Kind, _ watch: OperationWatch) throws(ErrorBody)
        -> OperationStatus
    {
        let result: Result<OperationStatus, ErrorBody> = state.withLock { state in
            if let refusal = Self.refusal(&state, kind: kind) { return .failure(refusal) }
            let status = OperationStatus(id: state.next, kind: kind, state: .running)
            state.next += 1
            state.entries[status.id] = Entry(status: status, watch: watch)
            let oldest = state.entries.keys.sorted()
            for id in oldest.prefix(max(0, oldest.count - Self.keptMax)) {
                state.entries[id] = nil
            }
            return .success(status)
        }
        return try result.get()
    }

    private static func refusal(_ state: inout State, kind: OperationStatus.Kind?) -> ErrorBody? {
        guard !state.isBusy else {
            if state.runningKind == .flush {
                return ErrorBody(
                    code: ErrorBody.Code.flushInProgress,
                    message: "Another flush operation in progress")
            }
            return ErrorBody(
                code: ErrorBody.Code.failed,
                message: "Another management operation on this cache is in progress."
                    + " Try again when it has ended.")
        }
        state.isBusy = true
        state.runningKind = kind
        return nil
    }

    private func end(_ id: UInt64, _ outcome: OperationStatus.State, _ error: ErrorBody?) {
        state.withLock { state in
            state.isBusy = false
            state.runningKind = nil
            state.entries[id]?.status.state = outcome
            state.entries[id]?.status.error = outcome == .failed ? error : nil
        }
    }

    /// The operation's status now; nil if there is none of that id.
    package func status(_ id: UInt64) -> OperationStatus? {
        state.withLock { state in
            guard let entry = state.entries[id] else { return nil }
            var status = entry.status
            status.progress = status.state == .done ? 1 : entry.watch.progress
            return status
        }
    }

    /// Asks the operation to stop early; nil if there is none of that id.
    package func cancel(_ id: UInt64) -> OperationStatus? {
        state.withLock { $0.entries[id]?.watch.cancel() }
        return status(id)
    }
}

import ControlPlane
import ControlProtocol
import Testing

@Suite struct OperationTableTests {
    private static func error(_ code: String) -> ErrorBody {
        ErrorBody(code: code, message: "Because.")
    }

    private static func ended(_ table: OperationTable, _ id: UInt64) async -> OperationStatus? {
        _ = await eventually { table.status(id)?.state != .running }
        return table.status(id)
    }

    /// The error that `body` throws.
    private static func refusal(_ body: () throws(ErrorBody) -> Void) -> ErrorBody? {
        do throws(ErrorBody) {
            try body()
            return nil
        } catch {
            return error
        }
    }

    /// Starts an operation that goes on until it is cancelled.
    private static func begin(
        _ table: OperationTable, _ kind: OperationStatus.Kind
    ) throws -> OperationStatus {
        try table.start(kind) { watch throws(ErrorBody) in
            while !watch.isCancelled { watch.setProgress(0.25) }
            throw Self.error(ErrorBody.Code.cancelled)
        }
    }

    @Test func anOperationIsKnownFromItsBeginningToItsEnd() async throws {
        let table = OperationTable()
        let status = try Self.begin(table, .flush)
        #expect(status == OperationStatus(id: 1, kind: .flush, state: .running))
        #expect(await eventually { table.status(1)?.progress == 0.25 })
        #expect(table.cancel(1)?.kind == .flush)
        let end = await Self.ended(table, 1)
        #expect(end?.state == .cancelled && end?.error == nil)
    }

    @Test func theEndIsDoneOrFailed() async throws {
        let table = OperationTable()
        let good = try table.start(.stop) { _ throws(ErrorBody) in }
        #expect(
            await Self.ended(table, good.id)
                == OperationStatus(id: 1, kind: .stop, state: .done, progress: 1))
        let bad = try table.start(.setMode) { _ throws(ErrorBody) in
            throw Self.error(ErrorBody.Code.deviceBusy)
        }
        let end = await Self.ended(table, bad.id)
        #expect(end?.state == .failed && end?.id == 2)
        #expect(end?.error == Self.error(ErrorBody.Code.deviceBusy))
    }

    @Test(arguments: [.stop, .removeCore, .setMode] as [OperationStatus.Kind])
    func aSecondChangeIsRefused(kind: OperationStatus.Kind) async throws {
        let table = OperationTable()
        let first = try Self.begin(table, kind)
        let expected = ErrorBody(
            code: ErrorBody.Code.failed,
            message: "Another management operation on this cache is in progress."
                + " Try again when it has ended.")
        let second = Self.refusal { () throws(ErrorBody) in
            _ = try table.start(.flush) { _ throws(ErrorBody) in }
        }
        let short = Self.refusal { () throws(ErrorBody) in
            try table.runExclusively { () throws(ErrorBody) in }
        }
        #expect(second == expected && short == expected)
        _ = table.cancel(first.id)
        _ = await Self.ended(table, first.id)
        #expect(try table.start(.flush) { _ throws(ErrorBody) in }.id == 2)
    }

    @Test func whileAFlushGoesOnItIsNamed() async throws {
        let table = OperationTable()
        let first = try Self.begin(table, .flush)
        let second = Self.refusal { () throws(ErrorBody) in
            _ = try table.start(.flush) { _ throws(ErrorBody) in }
        }
        #expect(
            second
                == ErrorBody(
                    code: ErrorBody.Code.flushInProgress,
                    message: "Another flush operation in progress"))
        _ = table.cancel(first.id)
        _ = await Self.ended(table, first.id)
    }

    @Test func aShortChangeExcludesOthersAndNoLongerThanItLasts() throws {
        let table = OperationTable()
        let inner = try table.runExclusively { () throws(ErrorBody) in
            Self.refusal { () throws(ErrorBody) in
                _ = try table.start(.flush) { _ throws(ErrorBody) in }
            }
        }
        #expect(inner?.code == ErrorBody.Code.failed)
        let thrown = Self.refusal { () throws(ErrorBody) in
            try table.runExclusively { () throws(ErrorBody) in throw Self.error("x") }
        }
        #expect(thrown?.code == "x")
        #expect(try table.runExclusively { () throws(ErrorBody) in 5 } == 5)
    }

    @Test func theLast64AreRemembered() async throws {
        let table = OperationTable()
        for id in UInt64(1)...70 {
            let status = try table.start(.flush) { _ throws(ErrorBody) in }
            #expect(status.id == id)
            _ = await Self.ended(table, id)
        }
        #expect((1...6).allSatisfy { table.status($0) == nil })
        #expect((7...70).allSatisfy { table.status($0)?.state == .done })
        #expect(table.cancel(3) == nil && table.status(71) == nil)
    }

    @Test func progressIsAShare() {
        let watch = OperationWatch()
        #expect(watch.progress == nil)
        for (told, shown) in [(0, 0), (0.5, 0.5), (-1, 0), (7, 1)] as [(Double, Double)] {
            watch.setProgress(told)
            #expect(watch.progress == shown)
        }
        #expect(!watch.isCancelled)
        watch.cancel()
        #expect(watch.isCancelled)
    }
}

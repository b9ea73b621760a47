import ControlClient
import ControlProtocol

/// Follows an operation of a server to its end, shows progress, and passes Ctrl-C on.
struct OperationWatch {
    let connection: CacheConnection
    /// As in "Flushing cache".
    let name: String
    let session: Session

    private static let barAfter = Duration.seconds(2)
    private static let barEvery = Duration.seconds(1)
    /// Nearly done before the bar would appear: then it is not worth showing.
    private static let barWorthwhile = 0.5
    private static let longestPause = Duration.milliseconds(200)

    /// Starts the operation and returns its final status: done, failed or cancelled.
    func run(
        _ start: () async throws(ControlError) -> OperationStatus
    ) async throws(ControlError) -> OperationStatus {
        Interruption.watch()
        defer { Interruption.unwatch() }
        let clock = ContinuousClock()
        let begun = clock.now
        var status = try await start()
        var pause = Duration.milliseconds(5)
        var bar = ProgressBar(name: name)
        var lastDrawn: ContinuousClock.Instant?
        var isCancelRequested = false
        defer { if lastDrawn != nil { session.print(ProgressBar.erase) } }
        while status.state == .running {
            if Interruption.isRequested, !isCancelRequested {
                isCancelRequested = true
                status = try await connection.cancel(status.id)
                continue
            }
            try? await Task.sleep(for: pause)
            pause = min(pause * 2, Self.longestPause)
            status = try await connection.operation(status.id)
            let now = clock.now
            guard isBarDue(begun.duration(to: now), lastDrawn?.duration(to: now), status) else {
                continue
            }
            let elapsed = Double(begun.duration(to: now).components.seconds)
            session.print(bar.text(part: status.progress, elapsedSeconds: elapsed))
            lastDrawn = now
        }
        return status
    }

    private func isBarDue(
        _ elapsed: Duration, _ sinceLast: Duration?, _ status: OperationStatus
    ) -> Bool {
        guard session.isTerminal, status.state == .running, elapsed >= Self.barAfter else {
            return false
        }
        guard let sinceLast else { return (status.progress ?? 0) < Self.barWorthwhile }
        return sinceLast >= Self.barEvery
    }
}

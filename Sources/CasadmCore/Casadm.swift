/// The program: one command line in, text and an exit code out.
package enum Casadm {
    /// `arguments` without the program's name. Returns 0, 1 (failed) or 2 (interrupted).
    package static func run(_ arguments: [String], _ session: Session) async -> Int32 {
        let order: Order
        do {
            switch try ArgumentFront.invocation(arguments, isRoot: session.isRoot) {
            case .generalHelp:
                session.say(HelpText.general())
                return 0
            case .commandHelp(let command):
                session.say(HelpText.command(command))
                return 0
            case .run(let command, let options):
                order = try Order.parsed(command.name, options)
            }
        } catch {
            session.complain(error.lines)
            if error.hint { session.say([HelpText.hint]) }
            return Failure.ExitCode.failure.rawValue
        }
        return await carryOut(order, session)
    }

    private static func carryOut(_ order: Order, _ session: Session) async -> Int32 {
        let runner = Runner(session: session, format: order.format)
        do {
            let answer = try await runner.run(order.request)
            session.complain(answer.warnings)
            session.say(order.format == .json ? [answer.json.text] : answer.lines)
            return 0
        } catch {
            session.complain(error.lines)
            if order.format == .json {
                let message = error.lines.joined(separator: "\n")
                session.say([JSONText.object([("error", .string(message))]).text])
            }
            return error.exitCode.rawValue
        }
    }
}

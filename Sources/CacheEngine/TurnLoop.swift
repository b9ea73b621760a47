/// What happens to a worker from outside its engine.
public enum TurnEvent {
    /// A request was fetched; `origin` is the backend's own name for it (device, tag).
    case request(Request, origin: UInt64)
    /// A command with this token ended.
    case completion(Token, result: Int32)
    /// Another worker released something in this set.
    case setReleased(UInt32)
    case beginFlush(core: UInt16)
    case cancelFlush(core: UInt16)
    case beginSettling
}

/// What a turn needs of the world: the product has rings and ublk queues, the simulator an agenda.
public protocol TurnBackend: ~Copyable {
    /// The next thing that happened, nil if nothing has. With `acceptsRequests` false no request
    /// may be given; it is kept for a later turn.
    mutating func nextEvent(acceptsRequests: Bool) -> TurnEvent?
    /// The engine took the request of `origin` and calls it, and its buffer, `slot` from now on.
    mutating func accepted(origin: UInt64, slot: UInt32)
    /// Whether a request that the engine could not take may be offered to it now; false if the
    /// backend has taken it back, to give it again later.
    mutating func mayStart(_ request: Request, origin: UInt64) -> Bool
    /// Queues the command; false if there is no room, and then it is offered again later.
    mutating func prepare(_ command: UnsafePointer<Command>) -> Bool
    /// Answers a request, now or when there is room: the engine is through with it.
    mutating func answer(slot: UInt32, result: Int32, keepsBuffer: Bool)
    /// Hands over what was prepared. If `mayWait`, sleeps until there is an event.
    mutating func submit(mayWait: Bool)
    /// A flush could not be started because too many are under way.
    mutating func flushRefused(core: UInt16)
}

extension TurnBackend where Self: ~Copyable {
    @inlinable public mutating func mayStart(_: Request, origin _: UInt64) -> Bool { true }
}

/// One worker: its engine, its world, and the order of things. Shared by product and simulator.
///
/// A turn is bounded: at most `eventMax` events, then the commands they led to, then one submit.
/// Commands that do not fit stay with the engine, in order; none is dropped.
public struct TurnLoop<Backend: TurnBackend & ~Copyable>: ~Copyable {
    @usableFromInline var engine: Engine
    public var backend: Backend
    /// A request that the engine could not take yet; no other is asked for meanwhile.
    @usableFromInline var waiting: (request: Request, origin: UInt64)?
    @usableFromInline let eventMax: Int

    @inlinable public init(
        engine: consuming Engine, backend: consuming Backend, eventMax: Int = 256
    ) {
        precondition(eventMax > 0)
        self.engine = engine
        self.backend = backend
        self.eventMax = eventMax
    }

    /// Whether nothing is under way that the engine or this loop knows of.
    public var isQuiescent: Bool { engine.isQuiescent && waiting == nil }

    /// One turn; true if something happened in it.
    @discardableResult
    @inlinable public mutating func turn(mayWait: Bool) -> Bool {
        var handled = 0
        retryWaiting()
        while handled < eventMax,
            let event = backend.nextEvent(acceptsRequests: waiting == nil)
        {
            handle(event)
            handled += 1
        }
        let (prepared, allTaken) = prepareCommands()
        // Whether another turn would find nothing to do until something happens outside.
        let isStalled = handled == 0 && !prepared
        let isDone = allTaken && waiting == nil && handled < eventMax
        let mayRest = (isStalled || isDone) && !engine.hasMoreToDo
        backend.submit(mayWait: mayWait && mayRest)
        return !isStalled
    }

    @inlinable @inline(__always) mutating func handle(_ event: TurnEvent) {
        switch event {
        case .request(let request, let origin): take(request, origin)
        case .completion(let token, let result): complete(token, result)
        case .setReleased(let set): engine.setReleased(set)
        case .beginFlush(let core):
            if !engine.beginFlush(core: core) { backend.flushRefused(core: core) }
        case .cancelFlush(let core): engine.cancelFlush(core: core)
        case .beginSettling: engine.beginSettling()
        }
    }

    @inlinable @inline(__always) mutating func take(_ request: Request, _ origin: UInt64) {
        if let slot = engine.submit(request) {
            backend.accepted(origin: origin, slot: slot)
        } else {
            waiting = (request, origin)
        }
    }

    /// A hit is answered without a detour: no command, and its slot is free at once.
    @inlinable @inline(__always) mutating func complete(_ token: Token, _ result: Int32) {
        guard let slot = engine.completeHit(token, result: result) else {
            engine.complete(token, result: result)
            return
        }
        backend.answer(slot: slot, result: 0, keepsBuffer: false)
    }

    @inlinable mutating func retryWaiting() {
        guard let (request, origin) = waiting else { return }
        waiting = nil
        if backend.mayStart(request, origin: origin) { take(request, origin) }
    }

    /// Whether a command was queued, and whether all were.
    @inlinable mutating func prepareCommands() -> (any: Bool, all: Bool) {
        var any = false
        while let command = engine.nextCommand() {
            guard backend.prepare(command) else { return (any, false) }
            engine.commandTaken()
            any = true
        }
        return (any, true)
    }
}

import CacheEngine
import CacheFormat

/// The users' side: making up requests, and judging the answers.
extension World {
    func makeRequest() {
        let candidates = cores.filter { $0.isAttached && !$0.isPaused }
        guard !candidates.isEmpty else { return }
        let core =
            random.chance(scenario.firstCorePercent)
            ? candidates[0] : candidates[random.below(candidates.count)]
        let dice = random.below(100)
        let operation: Request.Operation
        if dice < scenario.flushPercent {
            operation = .flush
        } else if dice < scenario.flushPercent + scenario.discardPercent {
            operation = .discard
        } else {
            operation = random.chance(scenario.writePercent) ? .write : .read
        }
        var request = Request(operation, core: core.id)
        if operation != .flush { chooseRange(&request, core) }
        if operation == .write {
            request.forceUnitAccess = random.chance(scenario.forceUnitAccessPercent)
        }
        if random.chance(scenario.echoPercent) { echo(&request) }
        if overlapsDiscard(request) { return }
        if operation == .write || operation == .discard { lastChange = request }
        submit(request, core)
    }

    /// It goes where something was written or discarded last; a discard, to some of that.
    private func echo(_ request: inout Request) {
        guard let lastChange, lastChange.core == request.core, request.operation != .flush else {
            return
        }
        request.startSector = lastChange.startSector
        request.sectorCount = min(lastChange.sectorCount, UInt32(scenario.requestSectorsMax))
        guard request.operation == .discard, request.sectorCount > 1 else { return }
        let from = UInt32(random.below(Int(request.sectorCount)))
        request.startSector += UInt64(from)
        request.sectorCount = 1 + UInt32(random.below(Int(request.sectorCount - from)))
    }

    /// A discard at the same time as a write to the same sectors leaves anything at all: no user
    /// does that, and nothing could be judged.
    private func overlapsDiscard(_ request: Request) -> Bool {
        guard request.operation == .write || request.operation == .discard else { return false }
        let range = request.startSector..<request.startSector + UInt64(request.sectorCount)
        let others = underWay.values.map(\.request) + requests.joined().map(\.request)
        return others.contains { other in
            guard other.core == request.core, other.operation != .read, other.operation != .flush,
                request.operation == .discard || other.operation == .discard
            else { return false }
            return range.overlaps(other.startSector..<other.startSector + UInt64(other.sectorCount))
        }
    }

    private func chooseRange(_ request: inout Request, _ core: SimulatedCore) {
        let align = scenario.alignmentSectors
        let longest =
            request.operation == .discard
            ? min(core.sectorCount / 2, scenario.requestSectorsMax * 8) : scenario.requestSectorsMax
        var count = 1 + random.below(max(1, longest / align))
        if random.chance(50) { count = 1 + random.below(min(count, 16)) }
        let sectors = min(count * align, core.sectorCount)
        let area = random.chance(80) ? min(scenario.hotSectors, core.sectorCount) : core.sectorCount
        let start = random.below(max(1, area / align)) * align
        request.startSector = UInt64(min(start, core.sectorCount - sectors))
        request.sectorCount = UInt32(sectors)
    }

    func submit(_ request: Request, _ core: SimulatedCore) {
        let now = tick()
        let client = ClientRequest(
            origin: nextOrigin, request: request, core: core, begun: now, stamp: nextStamp)
        client.isElsewhere = scenario.hasDataElsewhere && nextOrigin & 3 == 0
        nextOrigin += 1
        nextStamp += 1
        core.requestsUnderWay += 1
        note(client, "begins")
        if request.operation == .write || request.operation == .discard {
            let stamp = request.operation == .write ? client.stamp : 0
            for sector in client.sectors { core.history[sector].writeBegan(stamp, at: now) }
        }
        let worker =
            random.chance(scenario.firstWorkerPercent) ? 0 : random.below(scenario.workerCount)
        requests[worker].append(client)
    }

    func answered(_ client: ClientRequest, result: Int32) {
        guard underWay.removeValue(forKey: client.origin) != nil else {
            fail("a request was answered twice")
            return
        }
        let now = tick()
        client.core.requestsUnderWay -= 1
        note(client, "answered \(result)")
        if scenario.errorPerMille == 0 { checkAnswer(client, result) }
        switch client.request.operation {
        case .read:
            guard result == 0 else { break }
            readsJudged += 1
            checkRead(client, at: now)
        case .write:
            writesAnswered += 1
            for sector in client.sectors {
                client.core.history[sector].writeEnded(client.stamp, at: now, certain: result == 0)
                if result == 0, isDurable(client) {
                    client.core.history[sector].madeDurable(client.stamp)
                }
            }
        case .discard:
            for sector in client.sectors {
                client.core.history[sector].writeEnded(0, at: now, certain: false)
            }
        case .flush:
            guard result == 0 else { break }
            for sector in client.core.history.indices {
                client.core.history[sector].flushed(before: client.begun)
            }
            checkDurable(client.core, before: client.begun)
        }
        if result == 0, client.request.operation == .flush || isDurable(client) { maybeTryCut() }
    }

    /// Where no device fails.
    private func checkAnswer(_ client: ClientRequest, _ result: Int32) {
        if result != 0 {
            fail("\(client.request) failed with \(result) although no device did")
        }
        let flushes = shared.journalActivity.flushes - client.flushesBefore
        if let most = scenario.flushesWhileWaiting, flushes > most {
            fail("\(client.request) waited while the journal flushed \(flushes) times")
        }
    }

    private func isDurable(_ client: ClientRequest) -> Bool {
        client.request.operation == .write
            && (client.request.forceUnitAccess || durability == .write)
    }

    /// All that was answered before `moment` is durable from now on.
    func durabilityRaised(_ moment: UInt64) {
        for core in cores where core.isAttached && !core.isAbsent {
            core.device.makeDurable(core.device.unflushed)
            for sector in core.history.indices { core.history[sector].flushed(before: moment) }
            checkDurable(core, before: moment)
        }
        maybeTryCut()
    }

    /// Rule 2: what was acknowledged before a FLUSH began would survive a power cut now.
    private func checkDurable(_ core: SimulatedCore, before moment: UInt64) {
        let lineSectors = Int(geometry.lineBytes) / 512
        for first in stride(from: 0, to: core.sectorCount, by: lineSectors) {
            let line = UInt64(first / lineSectors)
            let place = shared.place(ofLine: line, core: core.id)
            for sector in first..<min(first + lineSectors, core.sectorCount) {
                guard let stamp = core.history[sector].settled(before: moment) else { continue }
                let granule = UInt16(1) << UInt16(sector - first)
                var found = core.device.durable[sector]
                if let place, place.state.dirty & granule != 0 {
                    let offset = geometry.cacheOffset(set: place.set, way: place.way)
                    found = cacheDevice.durable[Int(offset / 512) + sector - first]
                }
                if found != stamp {
                    fail(core, sector, "would be \(found) after a power cut behind its FLUSH")
                    return
                }
            }
        }
    }

    private func note(_ client: ClientRequest, _ what: String) {
        guard let trace else { return }
        let sectors = client.request.operation == .flush ? 0..<Int.max : client.sectors
        trace.note(
            core: client.core.id, sectors: sectors,
            "\(eventCount) \(client.request.operation) \(client.stamp) \(what) \(client.sectors)"
                + " mode \(shared.mode) slot \(client.slot.map(String.init) ?? "-")")
    }

    /// Fails, with what happened to the sector lately.
    func fail(_ core: SimulatedCore, _ sector: Int, _ text: String) {
        let history = "may be: \(core.history[sector].text)"
        let events = trace?.lines(core: core.id, sector: sector) ?? []
        fail(
            (["core \(core.id) sector \(sector) \(text)", history] + events)
                .joined(separator: "\n"))
    }

    private func checkRead(_ client: ClientRequest, at now: UInt64) {
        for (index, sector) in client.sectors.enumerated() {
            let stamp = client.buffer.stamps[index]
            if !client.core.history[sector].readEnded(stamp, begun: client.begun, at: now) {
                fail(client.core, sector, "was read as \(stamp) from \(client.begun) to \(now)")
                return
            }
        }
    }

    /// After everything was flushed: each core holds what a read would be allowed to return.
    func checkCoreContents(_ core: SimulatedCore) {
        let now = tick()
        for sector in 0..<core.sectorCount {
            let stamp = core.device.read(sector)
            if !core.history[sector].readEnded(stamp, begun: now, at: now) {
                fail(core, sector, "holds \(stamp) on the core after the flush")
                return
            }
            if core.device.durable[sector] != stamp {
                fail(core, sector, "is not durable on the core after the flush")
                return
            }
        }
    }

    func pruneHistories() {
        let oldest = underWay.values.map(\.begun).min() ?? .max
        let waiting = requests.joined().map(\.begun).min() ?? .max
        for core in cores {
            for sector in core.history.indices {
                core.history[sector].prune(oldestRead: min(oldest, waiting))
            }
        }
    }
}

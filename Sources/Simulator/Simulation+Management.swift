import CacheEngine

/// Leaving write-back with a flush, as `casadm -Q` does: when it is through, nothing is dirty.
enum ModeChange {
    case settling(to: EngineMode)
    case cleaning(to: EngineMode)
}

/// Raising the durability, as `casadm -X -n durability` does: when it is through, all that was
/// answered is durable.
enum DurabilityChange {
    case settling
    case committing(UInt64, settled: UInt64)
}

/// Management while requests go on.
extension Simulation {
    func maybeManage() {
        let scenario = world.scenario
        continueDurabilityChange()
        guard absent == nil, durabilityChange == nil else { return }
        if modeChange == nil, removing == nil,
            world.random.below(1000) < scenario.durabilitySwitchPerMille
        {
            switchDurability()
            return
        }
        if modeChange == nil, world.random.below(1000) < scenario.modeSwitchPerMille {
            switchMode(world.randomMode)
        }
        if world.random.below(1000) < scenario.coreFlushPerMille, modeChange == nil {
            let core = world.cores[world.random.below(world.cores.count)]
            if core.isAttached, removing == nil, !flushing.contains(core.id) { beginFlush(core) }
        }
        if modeChange == nil {
            for core in flushing where world.flushesEnded[core] != nil { flushing.remove(core) }
        }
        if removing == nil, flushing.isEmpty, modeChange == nil,
            world.random.below(1000) < scenario.coreRemovalPerMille, scenario.errorPerMille == 0
        {
            removing = world.cores[world.random.below(world.cores.count)]
            removing?.isPaused = true
            removing?.removal = .cleaning
        }
        finishRemoval()
        continueModeChange()
    }

    func beginFlush(_ core: SimulatedCore) {
        world.flushesEnded[core.id] = nil
        flushing.insert(core.id)
        world.inboxes[Int(core.id) % workers.count].append(.beginFlush(core: core.id))
    }
}

// MARK: - Modes

extension Simulation {
    private func switchMode(_ mode: EngineMode) {
        guard world.shared.mode == .writeBack, mode != .writeBack, flushing.isEmpty,
            removing == nil, world.scenario.errorPerMille == 0, world.random.chance(50)
        else {
            world.shared.mode = mode
            return
        }
        world.shared.freezeDirty()
        modeChange = .settling(to: mode)
        for worker in workers.indices {
            world.settling.insert(worker)
            world.inboxes[worker].append(.beginSettling)
        }
    }

    func continueModeChange() {
        switch modeChange {
        case .settling(let mode) where world.settling.isEmpty:
            for core in world.cores where core.isAttached { beginFlush(core) }
            modeChange = .cleaning(to: mode)
        case .cleaning(let mode)
        where flushing.allSatisfy({ world.flushesEnded[$0] != nil }):
            flushing = []
            for core in world.cores
            where core.isAttached && world.shared.sum(.dirtyLines, core: core.id) != 0 {
                world.fail("core \(core.id) is dirty after write-back was left with a flush")
            }
            world.shared.mode = mode
            world.shared.thawDirty()
            modeChange = nil
        default: break
        }
    }
}

// MARK: - Durability

extension Simulation {
    private func switchDurability() {
        if world.durability == .write {
            world.durability = .flush
            world.shared.durability = .flush
            return
        }
        world.shared.durability = .write
        durabilityChange = .settling
        for worker in workers.indices {
            world.settling.insert(worker)
            world.inboxes[worker].append(.beginSettling)
        }
    }

    func continueDurabilityChange() {
        switch durabilityChange {
        case .settling where world.settling.isEmpty:
            world.durability = .write
            durabilityChange = .committing(world.shared.requestCommit(), settled: world.tick())
            world.wakeForJournal()
        case .committing(let commit, let settled):
            guard let isWell = world.shared.commitOutcome(commit) else { return }
            durabilityChange = nil
            if isWell {
                world.durabilityRaised(settled)
            } else if world.scenario.errorPerMille == 0 {
                world.fail("the commit of a raised durability failed although no device did")
            }
        default: break
        }
    }
}

// MARK: - Cores

extension Simulation {
    /// The second third of the run may be without one of the cores.
    func playAbsence() throws(Violation) {
        guard world.scenario.hasAbsentCore else { return }
        let third = world.scenario.requestCount / 3
        if made == third, absent == nil {
            try drain()
            let core = world.cores[world.random.below(world.cores.count)]
            core.isPaused = true
            core.isAbsent = true
            world.shared.setHasDevice(core.id, false)
            absent = core
        } else if made >= 2 * third, let core = absent {
            core.isPaused = false
            core.isAbsent = false
            world.shared.setHasDevice(core.id, true)
            absent = nil
        }
    }

    /// A core is taken away in steps: no more requests, cleaning, the users' FLUSH, drop its lines,
    /// forget it; then it comes back, and its content must be what was written.
    func finishRemoval() {
        guard let core = removing, core.requestsUnderWay == 0 else { return }
        switch core.removal {
        case .cleaning:
            core.removal = .waitingForCleaning
            beginFlush(core)
        case .waitingForCleaning:
            guard let result = world.flushesEnded[core.id] else { return }
            flushing.remove(core.id)
            if result != 0 { world.fail("the flush before the removal failed with \(result)") }
            guard world.shared.sum(.dirtyLines, core: core.id) == 0 else {
                world.fail("core \(core.id) is dirty after the flush before its removal")
                return
            }
            core.removal = .flushing
            world.submit(Request(.flush, core: core.id), core)
        case .flushing:
            guard world.shared.dropLines(core: core.id) == .done else {
                return world.wakeForJournal()
            }
            core.removal = .committing(world.shared.requestCommit())
            world.wakeForJournal()
        case .committing(let commit):
            // What the journal says of its lines must not meet another core of this id.
            guard let isWell = world.shared.commitOutcome(commit) else { return }
            if !isWell { world.fail("the commit of a removal failed") }
            world.shared.removeCore(core.id)
            world.checkCoreContents(core)
            world.addToCache(core)
            core.isPaused = false
            world.flushesEnded[core.id] = nil
            removing = nil
        }
    }
}

import CacheEngine
import CacheFormat

/// What goes to a core directly, for want of a place in the cache, has its line to itself.
extension World {
    func checkDirectWrites(_ command: Command, _ client: ClientRequest) {
        // In other modes, and while a core is being removed, lines are written to both.
        guard scenario.mode == .writeBack, scenario.modeSwitchPerMille == 0,
            scenario.coreRemovalPerMille == 0
        else { return }
        let first = client.request.startSector + UInt64(command.bufferOffset / 512)
        let lines = lines(first, command.byteCount)
        for transfer in transfers where transfer.command.kind == .writeCore {
            guard transfer.client != nil, transfer.command.core == command.core else { continue }
            let direct = self.lines(transfer.command.deviceOffset / 512, transfer.command.byteCount)
            if direct.overlaps(lines) {
                fail("\(client.request) writes lines \(lines) that are written directly: \(direct)")
            }
        }
    }

    private func lines(_ sector: UInt64, _ byteCount: UInt32) -> Range<UInt64> {
        let lineSectors = UInt64(geometry.lineBytes) / 512
        let end = sector + UInt64(byteCount) / 512
        return sector / lineSectors..<(end + lineSectors - 1) / lineSectors
    }
}

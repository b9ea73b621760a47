import ControlClient
import ControlProtocol
import Testing

@testable import CasadmCore

@Suite struct ListTests {
    private func caches() -> [CacheSnapshot] {
        var first = CacheSnapshot.sample(id: 1)
        var second = first.cores[0]
        second.id = 12
        second.state = .inactive
        second.device = "/dev/disk/by-id/gone"
        second.exportedDevice = "/dev/cas1-12"
        first.cores.insert(second, at: 0)
        first.state = .incomplete
        var other = CacheSnapshot.sample(id: 2)
        other.mode = .writeThrough
        return [other, first]
    }

    @Test func treeHasBranchesAndLeaves() {
        let list = CacheList(caches(), devicePath: { $0 })
        #expect(
            list.treeLines(.unicode) == [
                "type    id   disk                   status       write policy   device",
                "cache   1    /dev/cache             Incomplete   wb             -",
                "├core   1    /dev/core              Active       -              /dev/cas1-1",
                "└core   12   /dev/disk/by-id/gone   Inactive     -              -",
                "cache   2    /dev/cache             Running      wt             -",
                "└core   1    /dev/core              Active       -              /dev/cas2-1",
            ])
        #expect(list.treeLines(.ascii)[2].hasPrefix("+core   1 "))
    }

    @Test func aCacheWithoutAServerIsThereWithWhatCanBeDone() {
        let record = CacheRecord(
            id: 3, device: "/dev/ssd", failure: "The cache is out of service: it died.",
            log: ["the last words"])
        let list = CacheList(
            [], unserved: [.init(record: record, isRestarting: false)], devicePath: { $0 })
        #expect(list.csvLines()[1] == "cache,3,/dev/ssd,Not running,-,-")
        let notes = list.notes.joined(separator: "\n")
        #expect(notes.contains("Cache 3: The cache is out of service: it died."))
        #expect(notes.contains("casadm --start-cache --load --cache-device /dev/ssd"))
        #expect(notes.contains("casadm --stop-cache --no-data-flush --cache-id 3"))
        #expect(notes.contains("    the last words"))
        let soon = CacheList(
            [], unserved: [.init(record: record, isRestarting: true)], devicePath: { $0 })
        #expect(soon.csvLines()[1] == "cache,3,/dev/ssd,Restarting,-,-" && soon.notes.isEmpty)
    }

    @Test func csvHasTheColumnsOfOpenCAS() {
        let list = CacheList(caches(), devicePath: { $0 + "!" })
        #expect(
            list.csvLines() == [
                "type,id,disk,status,write policy,device",
                "cache,1,/dev/cache!,Incomplete,wb,-",
                "core,1,/dev/core!,Active,-,/dev/cas1-1",
                "core,12,/dev/disk/by-id/gone!,Inactive,-,-",
                "cache,2,/dev/cache!,Running,wt,-",
                "core,1,/dev/core!,Active,-,/dev/cas2-1",
            ])
    }

    @Test func flushingShowsProgressAndBothModes() {
        var cache = CacheSnapshot.sample()
        cache.flushProgress = 0.4567
        cache.previousMode = .writeBack
        cache.mode = .writeThrough
        var done = cache.cores[0]
        done.id = 2
        done.statistics.usage.dirty = 0
        var measured = cache.cores[0]
        measured.id = 3
        measured.flushProgress = 0.25
        cache.cores += [done, measured]
        #expect(
            CacheList([cache], devicePath: { $0 }).rows.map { [$0.status, $0.policy] } == [
                ["Flushing (45.7 %)", "wb->wt"], ["Flushing (0.0 %)", "-"],
                ["Flushing (100.0 %)", "-"], ["Flushing (25.0 %)", "-"],
            ])
    }

    @Test(arguments: [
        (CacheSnapshot.State.running, "Running"), (.stopping, "Stopping"),
        (.notRunning, "Not running"), (.incomplete, "Incomplete"),
    ])
    func states(state: CacheSnapshot.State, name: String) {
        var cache = CacheSnapshot.sample()
        cache.state = state
        #expect(CacheList.status(cache) == name)
    }

    @Test func theSessionsLanguageChoosesTheCharacters() {
        #expect(DrawingSet.forSession(["LANG": "en_US.UTF-8"]) == .unicode)
        #expect(DrawingSet.forSession(["LANG": "de_DE.utf-8", "TERM": "xterm"]) == .unicode)
        #expect(DrawingSet.forSession(["LANG": "en_US.UTF-8", "TERM": "dumb"]) == .ascii)
        #expect(DrawingSet.forSession(["LANG": "en_US.UTF-8", "LC_ALL": "C"]) == .ascii)
        #expect(DrawingSet.forSession([:]) == .ascii)
    }
}

@Suite struct ProgressBarTests {
    @Test func theBarGrowsAndNeverShrinks() {
        var bar = ProgressBar(name: "Flushing cache")
        let half = String(repeating: "=", count: 25) + String(repeating: " ", count: 25)
        #expect(
            bar.text(part: 0.5, elapsedSeconds: 100)
                == "\rFlushing cache... [\(half)] 50.0% [1m40s remaining]\u{1B}[K")
        #expect(
            bar.text(part: 0.4, elapsedSeconds: 10)
                == "\rFlushing cache... [\(half)] 50.0% [10s remaining]\u{1B}[K")
        let more = String(repeating: "=", count: 25) + "-" + String(repeating: " ", count: 24)
        #expect(bar.text(part: 0.513, elapsedSeconds: 0).contains("[\(more)] 51.3% [0s remaining]"))
    }

    @Test func aWheelTurnsWhileNothingIsKnown() {
        var bar = ProgressBar(name: "Stopping cache")
        let first = bar.text(part: nil, elapsedSeconds: 2)
        let second = bar.text(part: 0, elapsedSeconds: 3)
        #expect(first == "\rStopping cache... [|]\u{1B}[K")
        #expect(second == "\rStopping cache... [/]\u{1B}[K")
    }
}

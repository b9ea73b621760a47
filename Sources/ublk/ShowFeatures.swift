import ArgumentParser
import Ublk

struct ShowFeatures: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "features", abstract: "Show what this kernel's ublk can do.")

    func run() throws {
        let features = try openControl().features()
        print("ublk_drv features: 0x\(String(features.rawValue, radix: 16))")
        for bit in 0..<64 where features.rawValue & 1 << UInt64(bit) != 0 {
            print("0x\(String(UInt64(1) << UInt64(bit), radix: 16)): \(Features.name(bit: bit))")
        }
    }
}

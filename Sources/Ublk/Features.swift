/// What a kernel's ublk driver can do, or what a device was made with (UBLK_F_*).
public struct Features: OptionSet, Sendable {
    public let rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }

    public static let supportZeroCopy = Features(rawValue: 1 << 0)
    public static let completeInTask = Features(rawValue: 1 << 1)
    public static let needGetData = Features(rawValue: 1 << 2)
    public static let userRecovery = Features(rawValue: 1 << 3)
    public static let userRecoveryReissue = Features(rawValue: 1 << 4)
    public static let unprivileged = Features(rawValue: 1 << 5)
    public static let commandIoctlEncode = Features(rawValue: 1 << 6)
    public static let userCopy = Features(rawValue: 1 << 7)
    public static let zoned = Features(rawValue: 1 << 8)
    public static let userRecoveryFailIO = Features(rawValue: 1 << 9)
    public static let updateSize = Features(rawValue: 1 << 10)
    public static let autoBufferRegistration = Features(rawValue: 1 << 11)
    public static let quiesce = Features(rawValue: 1 << 12)
    public static let perIODaemon = Features(rawValue: 1 << 13)
    public static let bufferRegistrationOffDaemon = Features(rawValue: 1 << 14)
    public static let batchIO = Features(rawValue: 1 << 15)
    public static let integrity = Features(rawValue: 1 << 16)
    public static let safeStop = Features(rawValue: 1 << 17)
    public static let noAutoPartitionScan = Features(rawValue: 1 << 18)
    public static let sharedMemoryZeroCopy = Features(rawValue: 1 << 19)
    public static let descriptorSize = Features(rawValue: 1 << 20)

    /// The kernel's names, in the order of the bits.
    private static let allNames = [
        "SUPPORT_ZERO_COPY", "URING_CMD_COMP_IN_TASK", "NEED_GET_DATA", "USER_RECOVERY",
        "USER_RECOVERY_REISSUE", "UNPRIVILEGED_DEV", "CMD_IOCTL_ENCODE", "USER_COPY", "ZONED",
        "USER_RECOVERY_FAIL_IO", "UPDATE_SIZE", "AUTO_BUF_REG", "QUIESCE", "PER_IO_DAEMON",
        "BUF_REG_OFF_DAEMON", "BATCH_IO", "INTEGRITY", "SAFE_STOP_DEV", "NO_AUTO_PART_SCAN",
        "SHMEM_ZC", "IO_DESC_SIZE",
    ]

    /// The kernel's names of all that are set.
    public var names: [String] {
        (0..<64).filter { rawValue & 1 << UInt64($0) != 0 }.map { Self.name(bit: $0) }
    }

    /// The same, for a sentence.
    public var text: String { names.joined(separator: ", ") }

    /// The name of bit `bit`.
    public static func name(bit: Int) -> String {
        bit < allNames.count ? allNames[bit] : "unknown"
    }
}

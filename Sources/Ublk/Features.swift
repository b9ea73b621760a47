/// What a kernel's ublk driver can do, or what a device was made with (UBLK_F_*).
package struct Features: OptionSet, Sendable {
    package let rawValue: UInt64
    package init(rawValue: UInt64) { self.rawValue = rawValue }

    package static let supportZeroCopy = Features(rawValue: 1 << 0)
    package static let completeInTask = Features(rawValue: 1 << 1)
    package static let needGetData = Features(rawValue: 1 << 2)
    package static let userRecovery = Features(rawValue: 1 << 3)
    package static let userRecoveryReissue = Features(rawValue: 1 << 4)
    package static let unprivileged = Features(rawValue: 1 << 5)
    package static let commandIoctlEncode = Features(rawValue: 1 << 6)
    package static let userCopy = Features(rawValue: 1 << 7)
    package static let zoned = Features(rawValue: 1 << 8)
    package static let userRecoveryFailIO = Features(rawValue: 1 << 9)
    package static let updateSize = Features(rawValue: 1 << 10)
    package static let autoBufferRegistration = Features(rawValue: 1 << 11)
    package static let quiesce = Features(rawValue: 1 << 12)
    package static let perIODaemon = Features(rawValue: 1 << 13)
    package static let bufferRegistrationOffDaemon = Features(rawValue: 1 << 14)
    package static let batchIO = Features(rawValue: 1 << 15)
    package static let integrity = Features(rawValue: 1 << 16)
    package static let safeStop = Features(rawValue: 1 << 17)
    package static let noAutoPartitionScan = Features(rawValue: 1 << 18)
    package static let sharedMemoryZeroCopy = Features(rawValue: 1 << 19)
    package static let descriptorSize = Features(rawValue: 1 << 20)

    /// The kernel's names, in the order of the bits.
    package static let names = [
        "SUPPORT_ZERO_COPY", "URING_CMD_COMP_IN_TASK", "NEED_GET_DATA", "USER_RECOVERY",
        "USER_RECOVERY_REISSUE", "UNPRIVILEGED_DEV", "CMD_IOCTL_ENCODE", "USER_COPY", "ZONED",
        "USER_RECOVERY_FAIL_IO", "UPDATE_SIZE", "AUTO_BUF_REG", "QUIESCE", "PER_IO_DAEMON",
        "BUF_REG_OFF_DAEMON", "BATCH_IO", "INTEGRITY", "SAFE_STOP_DEV", "NO_AUTO_PART_SCAN",
        "SHMEM_ZC", "IO_DESC_SIZE",
    ]

    /// The name of bit `bit`.
    package static func name(bit: Int) -> String {
        bit < names.count ? names[bit] : "unknown"
    }
}

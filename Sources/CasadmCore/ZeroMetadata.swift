/// Takes a device's metadata away, so that it is no cache any more.
struct ZeroMetadata {
    let device: String
    let force: Bool

    func run() throws(Failure) -> Answer {
        throw Failure("later")
    }
}

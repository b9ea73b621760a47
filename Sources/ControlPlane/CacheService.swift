package import ControlProtocol

/// What the control interface does with a cache.
///
/// All calls may block and come from threads that may; none comes from an event loop. The product
/// has one implementation, `RuntimeService`; tests of the interface have another.
package protocol CacheService: Sendable {
    func snapshot() -> CacheSnapshot
    func addCore(_ body: AddCoreBody) throws(ErrorBody) -> AddedCore
    func removeCore(_ id: UInt16, flush: Bool, _ watch: OperationWatch) throws(ErrorBody)
    /// Cleans everything dirty of a core, or of all.
    func flush(core: UInt16?, _ watch: OperationWatch) throws(ErrorBody)
    func setMode(_ body: ModeBody, _ watch: OperationWatch) throws(ErrorBody)
    func setParameters(_ body: ParametersBody) throws(ErrorBody)
    func resetCounters(core: UInt16?) throws(ErrorBody)
    /// Ends the cache: no exported device is left, the devices are closed, the metadata is stored.
    func stop(flush: Bool, _ watch: OperationWatch) throws(ErrorBody)
}

/// Finds the broker of a bus, or becomes it.
enum Rendezvous {
    static func connect(_ bus: Bus, until deadline: Deadline) throws(Bus1Error) -> Descriptor {
        throw Bus1Error(.system, "find the broker")
    }
}

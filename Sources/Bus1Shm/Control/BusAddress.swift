import CBus1System
import Glibc

/// Where a bus is found: a directory, and the name of the socket in it.
struct BusAddress {
    let directory: String
    let name: String
    /// One of the default places: only its user may own it or look into it.
    let isPrivate: Bool

    /// `$BUS1_PATH`, else `$XDG_RUNTIME_DIR/bus1/bus`, else `/tmp/bus1-UID/bus`; unless the bus
    /// names a path.
    init(_ bus: Bus) {
        if !bus.path.isEmpty {
            self.init(path: bus.path)
        } else if let path = Self.environment("BUS1_PATH") {
            self.init(path: path)
        } else if let runtime = Self.environment("XDG_RUNTIME_DIR") {
            self.init(directory: runtime + "/bus1", name: "bus", isPrivate: true)
        } else {
            self.init(directory: "/tmp/bus1-\(geteuid())", name: "bus", isPrivate: true)
        }
    }

    private init(path: String) {
        guard let slash = path.lastIndex(of: "/") else {
            self.init(directory: ".", name: path, isPrivate: false)
            return
        }
        let directory = slash == path.startIndex ? "/" : String(path[..<slash])
        self.init(
            directory: directory, name: String(path[path.index(after: slash)...]), isPrivate: false)
    }

    private init(directory: String, name: String, isPrivate: Bool) {
        self.directory = directory
        self.name = name
        self.isPrivate = isPrivate
    }

    var lockName: String { name + ".lock" }

    /// Opens the directory, which is made if it is a default one. `denied`: others could replace
    /// what is in it.
    func openDirectory() throws(Bus1Error) -> Descriptor {
        guard !name.isEmpty, name != ".", name != ".." else {
            throw Bus1Error(.mismatch, "open the bus's directory")
        }
        var descriptor: Int32 = -1
        let result = bus1_sys_directory_open(directory, isPrivate, geteuid(), &descriptor)
        switch -result {
        case 0: return Descriptor(owning: descriptor)
        case EPERM, EACCES, ELOOP:
            throw Bus1Error(.denied, "open the bus's directory", errno: -result)
        default: throw Bus1Error(.system, "open the bus's directory", errno: -result)
        }
    }

    private static func environment(_ name: String) -> String? {
        guard let value = bus1_sys_environment(name), value.pointee != 0 else { return nil }
        return String(cString: value)
    }
}

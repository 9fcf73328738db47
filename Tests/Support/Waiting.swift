#if DEBUG
    import Glibc

    @testable import Bus1Shm

    func entries(of directory: String) -> Set<String> {
        guard let stream = opendir(directory) else { return [] }
        defer { closedir(stream) }
        var names: Set<String> = []
        while let entry = readdir(stream) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                pointer.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.insert(name) }
        }
        return names
    }

    /// Waits for something that another thread or process is about to bring about.
    func eventually(within patience: Duration = .seconds(20), _ condition: () -> Bool) -> Bool {
        let deadline = Deadline.after(patience)
        while !condition() {
            if deadline.hasPassed { return false }
            usleep(1000)
        }
        return true
    }
#endif

#if DEBUG
    import Glibc

    @testable import Bus1Shm

    /// The lines of a file of this tree.
    func linesOfTree(_ path: String) throws -> [Substring] {
        let here = #filePath
        let root = here.prefix(here.count - "Tests/Support/Tree.swift".count)
        guard let file = fopen(root + path, "re") else {
            throw Bus1Error(.system, "open a file of the tree", errno: errno)
        }
        defer { fclose(file) }
        var bytes = [UInt8](repeating: 0, count: 1 << 20)
        let count = fread(&bytes, 1, bytes.count, file)
        return String(decoding: bytes[..<count], as: UTF8.self)
            .split(separator: "\n", omittingEmptySubsequences: false)
    }
#endif

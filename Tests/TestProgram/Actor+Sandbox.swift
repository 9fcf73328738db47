#if DEBUG
    import CBus1TestSupport
    import Glibc

    @testable import Bus1Shm
    @testable import Bus1TestSupport

    extension Actor {
        /// Starts this program anew in namespaces of its own, where it answers; returns only why it could not.
        func enterNamespaces(otherTime: Bool) -> Bus1Error {
            let arguments = [strdup(CommandLine.arguments[0]), strdup("sandboxed"), nil]
            let result = test_sandbox_namespaces(arguments, otherTime)
            return Bus1Error(.system, "enter namespaces", errno: -result)
        }

        /// What a process could do to another by its number: signal it, read its memory.
        func reach(_ pid: Int32) -> String {
            let signalled = kill(pid, 0) == 0 ? 0 : errno
            let memory = open("/proc/\(pid)/mem", O_RDWR | O_CLOEXEC)
            let opened = memory >= 0 ? 0 : errno
            if memory >= 0 { close(memory) }
            return "\(signalled) \(opened)"
        }
    }
#endif

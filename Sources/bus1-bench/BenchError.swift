import Bus1Judge

/// A failure in words, for the person at the terminal.
typealias BenchError = JudgeError

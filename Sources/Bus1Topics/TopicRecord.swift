import Bus1Shm

/// What a subscriber says, with a handle to its node.
struct SubscribeRequest: BitwiseCopyable {
    var fingerprint: UInt64
}

/// Stands before each value, and alone as the first that a subscriber gets.
struct TopicHeader: BitwiseCopyable {
    /// Of the value; alone: of the first one that is to come. 1, 2, 3 and so on.
    var sequence: UInt64
    /// The publisher's ``Topic/WhenSlow``.
    var whenSlow: UInt64
}

/// A value on its way.
struct TopicRecord<Value: BitwiseCopyable>: BitwiseCopyable {
    var header: TopicHeader
    var value: Value
}

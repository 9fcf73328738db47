/// An address and a policy; holds nothing.
public struct Bus: Sendable {
    public let path: String
    public init(path: String) { self.path = path }
}

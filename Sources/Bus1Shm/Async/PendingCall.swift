/// A call that was sent and has not ended.
final class PendingCall {
    enum State {
        case outstanding
    }
    var isOver = false
    var wait: Wait?
}

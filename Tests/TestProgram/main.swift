#if DEBUG
    @testable import Bus1TestSupport

    switch CommandLine.arguments.dropFirst().first {
    case nil: Actor().run()
    case "sandboxed":
        RemoteControl.say("ok ")
        Actor().run()
    case let role?: Child.run(role)
    }
#endif

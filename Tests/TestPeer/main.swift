import Bus1TestSupport

#if DEBUG
    RemoteControl.run()
#endif

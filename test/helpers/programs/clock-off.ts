// Shifts the clock of a process by CLOCK_OFF_MS; Node's timers are not affected. Loaded with --import.
const offsetMs = Number(process.env.CLOCK_OFF_MS)
const now = Date.now
const RealDate = Date
Date.now = () => now() + offsetMs
globalThis.Date = new Proxy(RealDate, {
  construct: (target, args, newTarget) =>
    Reflect.construct(target, args.length === 0 ? [RealDate.now()] : args, newTarget) as Date,
})

export {}

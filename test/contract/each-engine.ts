/**
 * The contract suite: what every engine must do alike (ARCHITECTURE.md). Its cases run against each engine of
 * engine-harness.ts; some do not concern an engine that has no part in what they are about.
 */
import { afterEach, describe, test } from 'vitest';
import {
  Bed,
  type EngineSettings,
  ENGINES,
  LISTED_ONLY_ENGINES,
  SHARING_ENGINES,
  SOCKETLESS_ENGINES,
  TRANSPARENT_ENGINES,
  UNSEEING_ENGINES,
} from './engine-harness.ts';

type Test = typeof test | (() => undefined);

/** One engine, as the cases see it. */
export interface EngineCases {
  readonly engineName: string;
  /** A data plane on this engine, until the end of the case. */
  readonly bed: (settings?: EngineSettings) => Bed;
  readonly isListedOnly: boolean;
  readonly isSocketless: boolean;
  readonly isUnseeing: boolean;
  /** For engines whose caps are exact to the last session. */
  readonly testOfExactCaps: Test;
  /** For engines whose datagrams pass sockets. */
  readonly testOfSockets: Test;
  /** For engines whose backends see an address of the relay. */
  readonly testOfUpstreamSockets: Test;
  /** For those of both: exact caps, and upstream sockets or ports to run short of. */
  readonly testOfSocketCaps: Test;
}

/** Defines the cases about one thing for each engine that can run here, and says why for each that can't. */
export function describeEachEngine(what: string, define: (cases: EngineCases) => void): void {
  describe.each(Object.keys(ENGINES))('engine %s', (engineName) => {
    const unavailable = ENGINES[engineName]!.whyUnavailable();
    if (unavailable !== undefined) {
      test.skip(`skipped: ${unavailable}`, () => undefined);
      return;
    }
    const beds: Bed[] = [];
    afterEach(async () => {
      await Promise.all(beds.splice(0).map((bed) => bed.stop()));
    });
    const testUnlessIn = (engines: readonly string[]): Test =>
      engines.includes(engineName) ? () => undefined : test;
    describe(what, () => {
      define({
        engineName,
        bed: (settings) => {
          const bed = new Bed(engineName, settings);
          beds.push(bed);
          return bed;
        },
        isListedOnly: LISTED_ONLY_ENGINES.includes(engineName),
        isSocketless: SOCKETLESS_ENGINES.includes(engineName),
        isUnseeing: UNSEEING_ENGINES.includes(engineName),
        testOfExactCaps: testUnlessIn(SHARING_ENGINES),
        testOfSockets: testUnlessIn(SOCKETLESS_ENGINES),
        testOfUpstreamSockets: testUnlessIn(TRANSPARENT_ENGINES),
        testOfSocketCaps: testUnlessIn([...TRANSPARENT_ENGINES, ...SHARING_ENGINES]),
      });
    });
  });
}

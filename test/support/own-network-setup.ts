/** For vitest's `setupFiles`: each test file in a network namespace of its own, as far as that can be had. */
import { enterOwnNetwork } from './own-network.ts';

enterOwnNetwork([]);

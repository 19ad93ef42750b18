/** `tickrelay detach`: removes what a relay with the engine `kernel` left in the system. */
import type { CommandModule } from 'yargs';
import { loadLibc } from '../net/linux/libc.ts';
import { RelayError } from '../net/relay-error.ts';
import { DEFAULT_BPFFS } from './core/limits.ts';
import { leftoverNames, removeLeftover } from './engines/kernel/leftovers.ts';

interface DetachArguments {
  readonly name: string | undefined;
  readonly all: boolean | undefined;
  readonly bpffs: string;
}

export const command: CommandModule<object, DetachArguments> = {
  command: 'detach [name]',
  describe: 'Remove what a relay with engine kernel left attached: killed, or ended with --keep-attached',
  builder: (yargs) =>
    yargs
      .positional('name', { type: 'string', describe: 'The relay’s name; default tickrelay' })
      .options({
        // Without a default, which would count as given beside a name.
        all: { type: 'boolean', describe: 'Every relay that does not run' },
        bpffs: {
          type: 'string',
          requiresArg: true,
          default: DEFAULT_BPFFS,
          describe: 'The BPF file system that it was pinned in',
        },
      })
      .conflicts('all', 'name')
      .example('$0 detach', 'the relay of the default name')
      .example('$0 detach eu-1', 'a relay that was started with --name eu-1')
      .epilogue('Exit codes: 0 nothing is left; 1 the relay runs, or the system refuses.'),
  handler: ({ name, all, bpffs }) => {
    const loaded = loadLibc();
    if ('unavailable' in loaded) throw new RelayError('TICKRELAY_ERR_ENGINE', loaded.unavailable);
    const names = all === true ? leftoverNames(bpffs) : [name ?? 'tickrelay'];
    if (names.length === 0) process.stdout.write(`nothing is left in ${bpffs}\n`);
    for (const one of names) {
      const hooks = removeLeftover(loaded.libc, bpffs, one);
      const text =
        hooks === undefined ? 'nothing was left' : `detached from ${hooks.join(', ') || 'nothing'}`;
      process.stdout.write(`${one}: ${text}\n`);
    }
  },
};

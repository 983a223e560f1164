import torch
from monai.data import CacheDataset, DataLoader
from monai.transforms import Compose
from monai.utils import set_determinism

from monai_jsma.data import load_datalist, make_dataset
from monai_jsma.losses import JSMALoss
from monai_jsma.networks import ConvBackbone, JSMANet, LeaveOneOut
from monai_jsma.transforms import LoadPyramidd, PyramidThumbnaild, RandPyramidOrientationd

set_determinism(0)
datalist = make_dataset("pictures", num_train=32, num_validation=8, num_test=8)  # or a datalist of your own
load = LoadPyramidd("image", magnifications=("50X", "100X", "200X"), patch_size=32)
transform = Compose([load, RandPyramidOrientationd("image"), PyramidThumbnaild("image", size=(32, 32))])
loader = DataLoader(
    CacheDataset(load_datalist(datalist, "training"), transform, progress=False), batch_size=8, shuffle=True
)

network = JSMANet(
    num_classes=4, magnifications=("50X", "100X", "200X"), weights=None, thumbnail_size=(32, 32), patch_size=32,
    sampler=LeaveOneOut(4), thumbnail_encoder=ConvBackbone(), patch_encoder=ConvBackbone(),
)  # fmt: skip
optimizer, criterion = torch.optim.Adam(network.parameters(), 1e-3), JSMALoss(alpha=0.01)
for _ in range(2):
    for batch in loader:
        output = network(batch["image"].as_tensor(), batch["pyramid"], return_attention=True)
        loss = criterion(output, batch["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
